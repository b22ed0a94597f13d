#include "train/compare/results.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/train/compare/synthetic_results.h"

namespace ceiling {
namespace {

using nlohmann::json;

// Reads `content` as a file called results.json; the path is cut from what an Error says.
class ResultsTest : public ::testing::Test {
 protected:
  ComparisonResults read(const json& content) {
    write_file_atomic(dir_ / "results.json", content.dump());
    try {
      return read_results(dir_ / "results.json");
    } catch (const Error& e) {
      std::string text = e.what();
      if (text.starts_with(dir_.path() + "/")) text = text.substr(dir_.path().size() + 1);
      throw Error(text);
    }
  }
  void expect_refused(const std::function<void(json&)>& damage, const std::string& message) {
    json content = results_json(synthetic_results());
    damage(content);
    expect_error([&] { read(content); }, message);
  }

 private:
  TempDir dir_;
};

TEST_F(ResultsTest, WhatIsWrittenReadsBackEqual) {
  for (const SyntheticOptions& options : {SyntheticOptions{}, SyntheticOptions{1, "mqar"}}) {
    const auto written = results_json(synthetic_results(options));
    EXPECT_EQ(results_json(read(json(written))).dump(), written.dump());
  }
}

TEST_F(ResultsTest, ALossThatIsNotFiniteIsNullInTheFile) {
  ComparisonResults results = synthetic_results();
  results.runs[0].train_curve[3].loss = std::nan("");
  const auto written = results_json(results);
  EXPECT_TRUE(written["runs"][0]["train_curve"][3][1].is_null());
  EXPECT_TRUE(std::isnan(read(json(written)).runs[0].train_curve[3].loss));
}

TEST_F(ResultsTest, WhatMayBeAbsentMayBeNull) {
  json content = results_json(synthetic_results());
  content["contenders"][5]["best_lr"] = nullptr;
  content["contenders"][0]["decoding"] = nullptr;
  content["runs"][2]["evaluation"]["bits_per_byte"] = nullptr;
  const ComparisonResults results = read(content);
  EXPECT_FALSE(results.contenders[5].best_lr);
  EXPECT_TRUE(results.contenders[0].decoding.empty());
  EXPECT_FALSE(results.runs[2].evaluation->bits_per_byte);
}

TEST_F(ResultsTest, DamageIsNamedByItsKey) {
  expect_refused([](json& c) { c["contenders"][1].erase("parameters"); },
                 "results.json: contenders[1].parameters is missing");
  expect_refused(
      [](json& c) { c["runs"][2]["evaluation"]["recall"][1]["accuracy"] = "high"; },
      "results.json: runs[2].evaluation.recall[1].accuracy is \"high\", must be a number");
  expect_refused([](json& c) { c["runs"][0]["steps"] = 1.5; },
                 "results.json: runs[0].steps is 1.5, must be a whole number");
  expect_refused([](json& c) { c["marks"] = "none"; },
                 "results.json: marks is \"none\", must be a list");
  expect_refused(
      [](json& c) { c["runs"][0]["train_curve"][1] = {8192}; },
      "results.json: runs[0].train_curve[1] is [8192], must be [tokens, loss] or [tokens, loss, "
      "accuracy]");
}

TEST_F(ResultsTest, NamesMustFitTogether) {
  expect_refused([](json& c) { c["format"] = 2; },
                 "results.json: format is 2, this program reads format 1; use the ceiling that "
                 "wrote it (0.1.0 (1fe4eff))");
  expect_refused([](json& c) { c["budgets"] = {"flops"}; },
                 "results.json: budgets must have 'tokens'");
  expect_refused([](json& c) { c["budgets"][1] = "money"; },
                 "results.json: budgets has 'money', must be of tokens, flops, time");
  expect_refused([](json& c) { c["baseline"] = "gpt"; },
                 "results.json: baseline is 'gpt', must be the name of a contender");
  expect_refused([](json& c) { c["contenders"][1]["name"] = "llama"; },
                 "results.json: two contenders are called 'llama'");
  expect_refused([](json& c) { c["runs"][0]["contender"] = "gpt"; },
                 "results.json: run llama/tokens-lr-0.001-seed-1: contender 'gpt' is not in "
                 "contenders");
  expect_refused([](json& c) { c["runs"][2].erase("evaluation"); },
                 "results.json: run llama/tokens-lr-0.004-seed-1: must have either 'evaluation' or "
                 "'failed'");
  expect_refused([](json& c) { c["runs"][2]["evaluation"]["sample_nats"] = {1}; },
                 "results.json: run llama/tokens-lr-0.004-seed-1: evaluation has 1 sample_nats and "
                 "220 sample_targets");
  expect_refused([](json& c) { c["runs"][0]["grid_only"] = false; },
                 "results.json: run llama/tokens-lr-0.001-seed-1: lr is 0.001, the best of its "
                 "contender is 0.004; a run at another rate must be grid_only");
  expect_refused(
      [](json& c) { c["runs"].push_back(c["runs"][2]), c["runs"].back()["name"] = "again"; },
      "results.json: run again: a second run of llama with budget tokens and seed 1");
  expect_refused(
      [](json& c) { c["task"] = "mqar"; },
      "results.json: run llama/tokens-lr-0.004-seed-1: evaluation has no accuracy, which "
      "the task 'mqar' is judged by");
}

}  // namespace
}  // namespace ceiling
