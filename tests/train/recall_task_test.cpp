// Training on a synthetic recall task (data.task) instead of text: from chance to a solved task,
// and what the commands make of such a run.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "checkpoints/store.h"
#include "tests/support/command.h"
#include "tests/support/dataset.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "train/audit.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

const char* kLlama = "llama {d_model: 64, n_layers: 2, n_heads: 1, d_ff: 48}";

// Two pairs among 16 tokens: a value is guessed with chance 1/8, any token with 1/16.
constexpr double kGuess = 1.0 / 8;

RunConfig easy_mqar(const std::string& run_dir, int64_t steps,
                    std::vector<std::string> changes = {}) {
  const std::vector<std::string> task = {"data.task=mqar",
                                         "data.context=12",
                                         "data.recall.vocab_size=16",
                                         "data.recall.items=2",
                                         "data.recall.valid_samples=1000",
                                         fmt::format("eval.every={}", steps)};
  changes.insert(changes.begin(), task.begin(), task.end());
  return tiny_run(kLlama, "", run_dir, steps, changes);
}

nlohmann::json last_line(const std::string& run_dir, const std::string& event) {
  nlohmann::json last;
  for (const std::string& line : split(read_file(run_dir + "/metrics.jsonl"), '\n')) {
    if (line.empty()) continue;
    auto json = nlohmann::json::parse(line);
    if (json.at("event") == event) last = std::move(json);
  }
  return last;
}

class RecallTaskTest : public ::testing::Test {
 protected:
  TempDir dir_;
  std::string run_ = dir_ / "run";
};

TEST_F(RecallTaskTest, AccuracyIsChanceBeforeTraining) {
  train(easy_mqar(run_, 1, {"train.lr=1e-12"}));
  const auto valid = last_line(run_, "valid");
  const double n = valid.at("n_targets");
  EXPECT_EQ(n, 2000);
  EXPECT_LT(valid.at("accuracy").get<double>(), kGuess + 4 * std::sqrt(kGuess / n));
  EXPECT_NEAR(valid.at("loss_nats").get<double>(), std::log(16), 0.1);
}

TEST_F(RecallTaskTest, AnEasySettingIsLearnt) {
  train(easy_mqar(run_, 250,
                  {"train.global_batch=64", "train.micro_batch=64", "train.warmup_steps=20"}));
  const auto valid = last_line(run_, "valid");
  EXPECT_GT(valid.at("accuracy").get<double>(), 0.95) << valid;
}

TEST_F(RecallTaskTest, ResumedRunEqualsUninterruptedBitForBit) {
  const std::string cut = dir_ / "cut";
  train(easy_mqar(run_, 6));
  train(easy_mqar(cut, 6, {"checkpoint.every=2"}));
  fs::remove_all(cut + "/checkpoints/step-00000006");
  train(easy_mqar(cut, 6, {"checkpoint.every=2"}));
  const char* weights = "/checkpoints/step-00000006/weights.safetensors";
  EXPECT_EQ(read_file(run_ + weights), read_file(cut + weights));
  for (const char* key : {"loss_nats", "data_hash"})
    EXPECT_EQ(last_line(run_, "step").at(key), last_line(cut, "step").at(key));
  EXPECT_EQ(last_line(run_, "valid").at("accuracy"), last_line(cut, "valid").at("accuracy"));
}

TEST_F(RecallTaskTest, AccuracyDoesNotDependOnTheBatchOfEvaluation) {
  std::vector<nlohmann::json> results;
  for (const int64_t batch : {1, 7}) {
    const std::string dir = dir_ / std::to_string(batch);
    train(easy_mqar(dir, 20, {fmt::format("eval.batch={}", batch), "train.lr=1e-2"}));
    results.push_back(last_line(dir, "valid"));
  }
  EXPECT_EQ(results[0].at("n_targets"), results[1].at("n_targets"));
  EXPECT_EQ(results[0].at("accuracy"), results[1].at("accuracy"));
  EXPECT_NEAR(results[0].at("loss_nats").get<double>(), results[1].at("loss_nats").get<double>(),
              1e-6);
}

TEST_F(RecallTaskTest, EvalMeasuresTheTasksTestSetWithoutADataset) {
  train(easy_mqar(run_, 20, {"train.lr=1e-2"}));
  const Outcome outcome = ceiling_command({"eval", run_, "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto result = nlohmann::json::parse(outcome.out), valid = last_line(run_, "valid");
  EXPECT_EQ(result.at("data"), "task mqar");
  EXPECT_EQ(result.at("accuracy"), valid.at("accuracy"));
  EXPECT_EQ(result.at("n_targets"), valid.at("n_targets"));
  EXPECT_NEAR(result.at("loss_nats").get<double>(), valid.at("loss_nats").get<double>(), 1e-6);
  EXPECT_NE(ceiling_command({"eval", run_}).out.find("accuracy"), std::string::npos);
}

TEST_F(RecallTaskTest, TheRecordsProveWhatWasConsumed) {
  train(easy_mqar(run_, 7, {"data.recall.samples=10"}));
  const AuditReport report = audit_run(run_);
  EXPECT_EQ(report.n_samples, 28);
  ASSERT_EQ(report.parts.size(), 1u);
  EXPECT_EQ(report.parts[0].name, "task mqar");
  EXPECT_EQ(report.parts[0].per_epoch, 10);
}

TEST_F(RecallTaskTest, TextIsRefusedAndExportSaysThatThereIsNoTokenizer) {
  train(easy_mqar(run_, 1));
  const std::string step = run_ + "/checkpoints/step-00000001", text = dir_ / "text";
  write_byte_dataset(text, made_up_documents(60, 1), made_up_documents(6, 2));
  const auto says = [](const Outcome& outcome, const std::string& message) {
    EXPECT_EQ(outcome.code, 1);
    EXPECT_NE(outcome.err.find(message), std::string::npos) << outcome.err;
  };
  says(ceiling_command({"generate", run_, "--prompt", "a"}),
       step +
           ": was trained on the synthetic task mqar, whose tokens stand for no text, so there "
           "is nothing to continue; `ceiling eval RUN` tells how well it solves the task");
  says(ceiling_command({"eval", run_, "--data", text}),
       "--data: " + step +
           " was trained on the synthetic task mqar, whose tokens stand for no "
           "text; leave --data out to evaluate on the task's own test set");
  RunConfig on_text = tiny_run(kLlama, text, dir_ / "on_text", 1, {"train.init_from=" + run_});
  // The vocabularies differ, and so do the models.
  EXPECT_THROW(train(std::move(on_text)), Error);

  const std::string out = dir_ / "hf";
  const Outcome exported = ceiling_command({"export", run_, "--out", out});
  ASSERT_EQ(exported.code, 0) << exported.err;
  EXPECT_NE(exported.out.find("no tokenizer files: the tokens of the synthetic task mqar stand for "
                              "no text"),
            std::string::npos)
      << exported.out;
  EXPECT_TRUE(fs::exists(out + "/model.safetensors"));
  EXPECT_FALSE(fs::exists(out + "/tokenizer.json"));
  EXPECT_EQ(nlohmann::json::parse(read_file(out + "/config.json")).at("vocab_size"), 16);
}

TEST_F(RecallTaskTest, WhatAnotherTaskMeansByItsTokensIsRefused) {
  train(easy_mqar(run_, 1));
  expect_error(
      [&] {
        train(easy_mqar(
            dir_ / "other", 1,
            {"data.task=induction", "data.recall.items=auto", "train.init_from=" + run_}));
      },
      "train.init_from: the dataset: has the tokens of 'task:induction', the model was trained on "
      "those of 'task:mqar'; the ids of a synthetic task mean nothing in text or in another task");
}

TEST_F(RecallTaskTest, ConfigsThatContradictATaskAreRefused) {
  const auto message = [&](const std::vector<std::string>& changes) -> std::string {
    try {
      easy_mqar(run_, 1, changes);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({"data.path=datasets/text"}),
            "command line: data.task: stands beside data.path, data.mixture or data.source; keep "
            "one");
  EXPECT_EQ(message({"eval.prompts=[\"Once\"]"}),
            "command line: eval.prompts: a synthetic task has no text");
  EXPECT_EQ(message({"data.recall.items=4"}),
            "command line: data.recall: recall task mqar of 12 tokens, vocabulary 16, 4 items: "
            "needs a context of at least 4 per pair");
}

}  // namespace
}  // namespace ceiling
