// The file of a comparison, contenders matched in size, and the runs that follow from it.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/files.h"
#include "base/text.h"
#include "tests/support/dataset.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "train/compare/match.h"
#include "train/compare/plan.h"
#include "train/compare/spec.h"
#include "train/setup.h"

namespace ceiling {
namespace {

const char* kFile = R"(compare: {dir: here, lr: [1e-3, 2e-3], seeds: 2}
contenders:
  llama: {model: {architecture: llama, n_heads: 2}}
  retnet: {model: {architecture: retnet, n_heads: 2}}
model: {d_model: 64, n_layers: 2}
data: {path: data, context: 64}
train: {steps: 100, global_batch: 8, warmup_steps: 10}
)";

class ComparisonFileTest : public ::testing::Test {
 protected:
  Comparison load(const std::string& text, const std::vector<std::string>& overrides = {}) {
    write_file_atomic(file_, text);
    return load_comparison(file_, overrides);
  }
  void refused(const std::string& text, const std::string& message) {
    expect_error([&] { load(text); }, message);
  }
  static std::string with(const std::string& before, const std::string& after) {
    std::string text = kFile;
    const size_t at = text.find(before);
    EXPECT_NE(at, std::string::npos) << before;
    return text.replace(at, before.size(), after);
  }

  TempDir temp_;
  const std::string file_ = temp_ / "c.yaml";
};

TEST_F(ComparisonFileTest, ContendersShareTheModelSection) {
  const Comparison comparison = load(kFile);
  ASSERT_EQ(comparison.contenders.size(), 2u);
  for (const ContenderSpec& contender : comparison.contenders) {
    const RunConfig config = comparison.recipe_with(contender.model);
    EXPECT_EQ(config.model.architecture, contender.name);
    EXPECT_NE(to_yaml(contender.model).find("d_model: 64"), std::string::npos);
    EXPECT_EQ(contender.match, "d_ff");
  }
  EXPECT_EQ(comparison.compare.match_to, "llama");
  EXPECT_EQ(load(kFile, {"compare.seeds=3"}).compare.seeds, 3);
}

TEST_F(ComparisonFileTest, MistakesAreNamedWithTheirLine) {
  refused("model: {d_model: 64}\n",
          file_ +
              ": has no `compare` section; a comparison needs compare.dir, compare.lr and "
              "contenders (a single run is started with `ceiling train`)");
  refused(with("dir: here, ", ""),
          file_ + ":1: compare.dir is not set; it names the folder of the comparison");
  refused(with("lr: [1e-3, 2e-3]", "lr: [1e-3, 0.001]"),
          file_ + ":1: compare.lr names a rate twice");
  refused(with("seeds: 2", "budgets: [token]"),
          file_ +
              ":1: compare.budgets: 'token' is not one of tokens, flops, time; did you mean "
              "'tokens'?");
  refused(with("seeds: 2", "match_to: lama"),
          file_ +
              ":1: compare.match_to: 'lama' is not one of llama, retnet; did you mean "
              "'llama'?");
  refused(with("{model: {architecture: llama, n_heads: 2}}",
               "{model: {architecture: llama, n_heads: 2}, train: {lr: 1}}"),
          file_ +
              ":3: contenders.llama.train: a contender has the keys model and match alone; "
              "everything else is equal for all of them");
  refused(with("  retnet: {model: {architecture: retnet, n_heads: 2}}\n", ""),
          file_ +
              ":2: contenders: name two or more, as in\n  contenders:\n    llama: {model: "
              "{architecture: llama}}");
  refused(with("  retnet:", "  ../retnet:"),
          file_ +
              ":4: contenders: '../retnet' names folders; use letters, digits, - _ . and no ending "
              "of a file");
  refused(with("  retnet:", "  llama.yaml:"),
          file_ +
              ":4: contenders: 'llama.yaml' names folders; use letters, digits, - _ . and no "
              "ending of a file");
  refused(with("retnet, n_heads: 2", "retnet, n_heads: 2, d_ff: 77"),
          file_ +
              ":4: contenders.retnet.model.d_ff is solved for; leave it out, or set "
              "contenders.retnet.match: none");
  refused(with("{model: {architecture: retnet, n_heads: 2}}",
               "{model: {architecture: retnet, n_heads: 2}, match: }"),
          file_ +
              ":4: contenders.retnet.match: name one key of the model, such as d_ff or n_layers, "
              "or none");
  refused(with("steps: 100", "init_from: runs/other, steps: 100"),
          file_ +
              ": train.init_from: contenders start from random weights, because no other start is "
              "the same for all of them; leave it out");
  refused(with("steps: 100", "lr: 1e-3, steps: 100"),
          file_ + ":7: train.lr is set by the comparison; give the rates as compare.lr");
  refused(
      with("n_heads: 2}}\n  retnet", "n_head: 2}}\n  retnet"),
      "contenders.llama: " + file_ + ":3: model: unknown key 'n_head'; did you mean 'n_heads'?");
}

TEST_F(ComparisonFileTest, EveryArchitectureIsMatchedWithinTheTolerance) {
  std::string text = R"(compare: {dir: here, lr: [1e-3], match_to: mamba2}
contenders:
)";
  for (const std::string& name : architecture_names())
    text += "  " + name + ": {model: {architecture: " + name +
            (name == "mamba2" ? ", n_layers: 8" : ", n_layers: 4, n_heads: 4") + "}}\n";
  text += "model: {d_model: 256}\ndata: {path: data, context: 64}\ntrain: {steps: 10}\n";
  const Comparison comparison = load(text);
  const auto matched = match_contenders(comparison, 1000);
  ASSERT_EQ(matched.size(), architecture_names().size());
  int64_t wanted = 0;
  for (const MatchedContender& contender : matched)
    if (contender.name == "mamba2") wanted = contender.non_embedding_parameters;
  for (const MatchedContender& contender : matched) {
    RunConfig config = comparison.recipe_with(contender.model);
    const auto built = build_model(config, 1000);
    EXPECT_EQ(built->n_non_embedding_parameters(), contender.non_embedding_parameters);
    const double error = static_cast<double>(contender.non_embedding_parameters - wanted) /
                         static_cast<double>(wanted);
    EXPECT_DOUBLE_EQ(error, contender.match_error) << contender.name;
    EXPECT_LE(std::abs(error), 0.01) << contender.name;
    if (!contender.key.empty()) {
      EXPECT_EQ(contender.value % 8, 0) << contender.name;
    }
  }
}

TEST_F(ComparisonFileTest, WhatCannotBeMatchedIsAnErrorWithTheNearest) {
  const Comparison comparison = load(with("seeds: 2", "seeds: 2, match: n_layers"));
  try {
    match_contenders(comparison, 1000);
    FAIL() << "two layers of RetNet are no two layers of LLaMA";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("contenders.retnet has "), std::string::npos) << message;
    EXPECT_NE(message.find("more than compare.tolerance 0.01. The nearest is n_layers 1; match by "
                           "another key, or match all others to this one (compare.match_to)"),
              std::string::npos)
        << message;
  }
  EXPECT_NO_THROW(match_contenders(load(with("seeds: 2", "match: n_layers, tolerance: 1")), 1000));
}

TEST_F(ComparisonFileTest, BudgetsBuyStepsByTheirCost) {
  const Comparison comparison = load(kFile);
  const Plan plan(comparison, match_contenders(comparison, 1000));
  EXPECT_EQ(plan.grid().size(), 4u);
  // The second costs 1.25 of the first's work and half of its time.
  const std::vector<StepCost> costs = {{.flops = 4, .seconds = 2}, {.flops = 5, .seconds = 1}};
  std::set<std::string> folders;
  for (const PlannedRun& run : plan.judged(0, 1e-3, costs)) {
    EXPECT_EQ(run.steps, 100);
    folders.insert(run.dir);
  }
  EXPECT_EQ(folders.size(), 2u) << "of the first, equal tokens are equal work and time";
  std::set<std::string> names;
  for (const PlannedRun& run : plan.judged(1, 2e-3, costs)) {
    EXPECT_EQ(run.steps, run.budget == "tokens" ? 100 : run.budget == "flops" ? 80 : 200);
    const RunConfig config = plan.config(run);
    EXPECT_EQ(config.total_steps(), run.steps);
    EXPECT_EQ(config.train.lr, 2e-3);
    EXPECT_EQ(config.run.seed, run.seed);
    EXPECT_EQ(config.train.warmup_steps, run.steps / 10) << "the same shape";
    names.insert(run.dir);
  }
  EXPECT_EQ(names.size(), 6u);
  // The grid's run of the first seed is the judged one.
  std::set<std::string> grid;
  for (const PlannedRun& run : plan.grid()) grid.insert(run.dir);
  EXPECT_TRUE(grid.count(plan.judged(1, 2e-3, costs)[0].dir));
}

TEST_F(ComparisonFileTest, TheManualHasEveryKey) {
  const std::string manual = read_file(source_dir() + "/docs/compare.md");
  CompareSection section;
  Fields fields;
  section.fields(fields);
  EXPECT_GT(fields.all().size(), 10u);
  for (const Field& field : fields.all())
    EXPECT_NE(manual.find("`" + field.name + "`"), std::string::npos) << field.name;
}

// What is kept in configs/compare: read, and matched.
TEST_F(ComparisonFileTest, TheComparisonsOfThisProjectAreSound) {
  int n_files = 0;
  for (const auto& entry : fs::directory_iterator(source_dir() + "/configs/compare")) {
    SCOPED_TRACE(entry.path().filename().string());
    const Comparison comparison = load_comparison(entry.path().string());
    const RunConfig shared = comparison.recipe_with(comparison.contenders.front().model);
    const auto matched = match_contenders(comparison, shared.recall() ? vocabulary(shared) : 8192);
    for (const MatchedContender& contender : matched)
      EXPECT_LE(std::abs(contender.match_error), 0.01) << contender.name;
    ++n_files;
  }
  EXPECT_GE(n_files, 6);
}

}  // namespace
}  // namespace ceiling
