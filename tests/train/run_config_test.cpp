#include "train/run_config.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "train/config_reference.h"
#include "train/describe.h"

namespace ceiling {
namespace {

constexpr const char* kSmall =
    "run:   {dir: runs/small}\n"
    "data:  {path: datasets/small, context: 64}\n"
    "model: {architecture: llama, d_model: 64, n_layers: 2, n_heads: 2}\n"
    "train: {steps: 20, global_batch: 8, lr: 3e-3, warmup_steps: 2}\n";

RunConfig small(const std::vector<std::string>& overrides = {}) {
  ConfigNode node = parse_config_text(kSmall, "a.yaml");
  for (const std::string& assignment : overrides) apply_override(node, assignment);
  return read_run_config(node);
}

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    ConfigNode node = parse_config_text(text, "a.yaml");
    for (const std::string& assignment : overrides) apply_override(node, assignment);
    read_run_config(node);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}
// The error when the line of `section` in kSmall is replaced.
std::string error_with(const std::string& line) {
  std::vector<std::string> lines = split(kSmall, '\n');
  const std::string section = line.substr(0, line.find(':') + 1);
  for (std::string& old : lines)
    if (old.rfind(section, 0) == 0) old = line;
  return error_of(join(lines, "\n"));
}

std::vector<std::string> config_files() {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(source_dir() + "/configs"))
    if (entry.path().extension() == ".yaml") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

TEST(RunConfigTest, SmallestFileHasTheDefaults) {
  const RunConfig config = small();
  EXPECT_EQ(config.total_steps(), 20);
  EXPECT_EQ(config.tokens_per_step(), 512);
  EXPECT_EQ(config.train.schedule, "cosine");
  EXPECT_FALSE(config.train.micro_batch.has_value());
  EXPECT_EQ(config.model.config->context, 64);
}

TEST(RunConfigTest, StepsFollowFromTokens) {
  EXPECT_EQ(small({"train.steps=none", "train.tokens=5120"}).total_steps(), 10);
  EXPECT_EQ(small({"train.steps=none", "train.tokens=5121"}).total_steps(), 11);
  EXPECT_EQ(small({"train.steps=none", "train.tokens=2", "train.warmup_steps=0"}).total_steps(), 1);
}

TEST(RunConfigTest, LengthOfTheRunIsGivenOnce) {
  EXPECT_EQ(error_with("train: {lr: 1}"),
            "a.yaml:4: train.steps: is not set; give train.steps or train.tokens");
  EXPECT_EQ(error_of(kSmall, {"train.tokens=1e6"}),
            "command line: train.tokens: stands beside train.steps 20; keep one and set the other "
            "to none");
  EXPECT_EQ(error_with("train: {steps: 0}"),
            "a.yaml:4: train.steps: 0 is out of range, must be at least 1, or 'none'");
  EXPECT_EQ(error_with("train: {steps: 9000000000000000}"),
            "a.yaml:4: train.steps: 9000000000000000 steps of 2048 tokens are too many to count");
}

TEST(RunConfigTest, WarmupAsLongAsTheRunIsRefused) {
  for (const int steps : {20, 50})
    EXPECT_EQ(
        error_with(fmt::format("train: {{steps: 20,\n  warmup_steps: {}}}", steps)),
        fmt::format("a.yaml:5: train.warmup_steps: {} must be less than the 20 steps of the run",
                    steps));
  EXPECT_EQ(error_with("train: {steps: 1, warmup_steps: 0}"), "no error");
  EXPECT_EQ(error_with("train: {steps: 20, lr: 0}"), "no error");
}

TEST(RunConfigTest, MicroBatchNeedNotDivideButIsNotLarger) {
  EXPECT_EQ(error_with("train: {steps: 20, global_batch: 30, micro_batch: 8}"), "no error");
  EXPECT_EQ(error_with("train: {steps: 20, global_batch: 8, micro_batch: 16}"),
            "a.yaml:4: train.micro_batch: 16 is more than train.global_batch 8; make it at most "
            "that, or auto");
}

TEST(RunConfigTest, RunNeedsAFolder) {
  EXPECT_EQ(error_with("run: {seed: 1}"),
            "a.yaml:1: run.dir: is not set; it names the folder of the run, as in run: {dir: "
            "runs/first}");
}

TEST(RunConfigTest, DataComesFromOnePlace) {
  EXPECT_EQ(error_with("data: {context: 64}"),
            "a.yaml:2: data.path: is not set; name the folder of a prepared dataset, or where "
            "data.source is to be "
            "prepared");
  EXPECT_EQ(error_with("data: {path: a, mixture: [{path: b}]}"),
            "a.yaml:2: data.mixture: stands beside data.path; keep one");
  EXPECT_EQ(error_with("data: {mixture: [{path: b}, {weight: 2}]}"),
            "a.yaml:2: data.mixture: an item has no path");
  EXPECT_EQ(error_with("data: {mixture: [{path: b}], source: x.txt, tokenizer: byte}"),
            "a.yaml:2: data.source: is prepared into data.path, which is not set; a mixture takes "
            "prepared datasets");
  EXPECT_EQ(error_with("data: {path: a, source: bible-kjv}"),
            "a.yaml:2: data.tokenizer: is not set, but data.source needs one: byte, spm:VOCAB or a "
            ".model file");
}

TEST(RunConfigTest, TokenizersAreRecognised) {
  for (const std::string name : {"byte", "spm:300", "tok/my.model"})
    EXPECT_EQ(error_with("data: {path: a, source: b, tokenizer: '" + name + "'}"), "no error");
  for (const std::string name : {"spm", "spm:", "spm:x", "spm:-3", "bytes", ".model"})
    EXPECT_EQ(error_with("data: {path: a, tokenizer: '" + name + "'}"),
              "a.yaml:2: data.tokenizer: '" + name +
                  "' is no tokenizer; write byte, spm:VOCAB such as spm:2000, or the path of a "
                  ".model file");
}

TEST(RunConfigTest, ArchitectureDecidesTheKeysOfTheModel) {
  EXPECT_EQ(error_with("model: {n_layers: 2, form: chunk, architecture: retnet}"), "no error");
  EXPECT_EQ(error_with("model: {form: chunk, architecture: llama}")
                .find("a.yaml:3: model: unknown key 'form'"),
            0u);
  EXPECT_EQ(error_with("model: {d_modle: 64, architecture: llama}"),
            "a.yaml:3: model: unknown key 'd_modle'; did you mean 'd_model'?");
  EXPECT_EQ(error_with("model: {d_model: 64}"),
            "a.yaml:3: model.architecture: is not set; one of " + join(architecture_names(), ", "));
  EXPECT_EQ(error_with("model:"),
            "a.yaml:3: model.architecture: is not set; one of " + join(architecture_names(), ", "));
  EXPECT_EQ(error_with("model: {d_model: 64, architecture: lama}"),
            "a.yaml:3: model.architecture: 'lama' is not one of " +
                join(architecture_names(), ", ") + "; did you mean 'llama'?");
}

TEST(RunConfigTest, RulesOfTheArchitectureNameFileAndLine) {
  const std::string message =
      error_with("model:\n  architecture: llama\n  d_model: 64\n  n_heads: 3");
  EXPECT_EQ(message.find("a.yaml:6: model.n_heads: 3 does not divide model.d_model 64"), 0u)
      << message;
}

TEST(RunConfigTest, SectionThatIsAScalarIsRefused) {
  EXPECT_EQ(error_of("run: {dir: a}\ntrain: fast\n"),
            "a.yaml:2: train: 'fast' is not a section; write its keys indented below it, or as "
            "train: {key: value}");
}

TEST(RunConfigTest, KeyInTheWrongSectionIsFound) {
  EXPECT_EQ(error_with("train: {steps: 20, seed: 1}"),
            "a.yaml:4: train: unknown key 'seed'; did you mean 'run.seed'?");
  EXPECT_EQ(error_of(kSmall, {"lr=1"}), "command line: unknown key 'lr'; did you mean 'train.lr'?");
  EXPECT_EQ(error_of(kSmall, {"train.lrr=1"}),
            "command line: unknown key 'train.lrr'; did you mean 'train.lr'?");
  EXPECT_EQ(error_of(kSmall, {"model.n_head=1"}),
            "command line: unknown key 'model.n_head'; did you mean 'model.n_heads'?");
}

TEST(RunConfigTest, ImpossibleSamplingAndBestCheckpointAreRefused) {
  EXPECT_EQ(error_of(kSmall, {"eval.top_p=0"}),
            "command line: eval.top_p: 0 leaves no token to choose; must be more than 0");
  EXPECT_EQ(error_of(kSmall, {"eval.every=never", "checkpoint.keep_best=true"}),
            "command line: checkpoint.keep_best: needs evaluations, but eval.every is never");
}

TEST(RunConfigTest, BestCheckpointsOfEarlierEvaluationsAreRemarkedOn) {
  const auto remarks = [](const char* eval, const char* checkpoint, const char* best) {
    return small({std::string("eval.every=") + eval, std::string("checkpoint.every=") + checkpoint,
                  std::string("checkpoint.keep_best=") + best})
        .remarks();
  };
  EXPECT_EQ(remarks("4", "6", "true"),
            std::vector<std::string>{
                "checkpoint.keep_best: checkpoint.every 6 is no multiple of eval.every 4, so "
                "checkpoints are judged by an evaluation of earlier weights; make it a multiple"});
  EXPECT_TRUE(remarks("4", "6", "false").empty());
  EXPECT_TRUE(remarks("4", "8", "true").empty());
  EXPECT_TRUE(remarks("4", "never", "true").empty());
}

TEST(RunConfigTest, MergeKeysReachTheConfig) {
  EXPECT_EQ(read_run_config(
                parse_config_text(
                    std::string(kSmall) +
                        "eval: &often {every: 10}\ncheckpoint:\n  <<: *often\n  keep_last: 3\n",
                    "a.yaml"))
                .checkpoint.every,
            10);
}

TEST(RunConfigTest, ResolvedYamlOfEveryConfigReadsBackTheSame) {
  const std::vector<std::string> files = config_files();
  ASSERT_FALSE(files.empty());
  for (const std::string& file : files) {
    SCOPED_TRACE(file);
    // Presets leave the dataset to the user.
    const ConfigNode node = load_config_file(file);
    if (node.find("compare")) continue;  // tests/train/compare/spec_test.cpp
    const bool has_data = node.find_path("data.path") || node.find_path("data.task");
    RunConfig config = load_run_config(
        file, has_data ? std::vector<std::string>{} : std::vector<std::string>{"data.path=d"});
    const std::string text = resolved_yaml(config);
    RunConfig back = read_run_config(parse_config_text(text, "resolved.yaml"));
    EXPECT_EQ(resolved_yaml(back), text);
    const ConfigDifference change = difference(config, back);
    EXPECT_TRUE(change.matters.empty() && change.free.empty());
  }
}

TEST(RunConfigTest, TwinOfTheQuickstartDiffersOnlyInTheModelAndTheFolder) {
  RunConfig a = load_run_config(source_dir() + "/configs/quickstart.yaml");
  RunConfig b = load_run_config(source_dir() + "/configs/quickstart-llama.yaml");
  const ConfigDifference change = difference(a, b);
  for (const ConfigChange& c : change.matters) EXPECT_EQ(c.key.rfind("model.", 0), 0u) << c.key;
  ASSERT_EQ(change.free.size(), 1u);
  EXPECT_EQ(change.free[0].key, "run.dir");
}

TEST(RunConfigTest, DifferenceSplitsWhatMattersFromWhatIsFree) {
  RunConfig before = small(),
            after = small({"run.seed=2", "model.d_model=96", "train.steps=40", "eval.every=7",
                           "train.micro_batch=4", "train.spike.policy=skip"});
  const ConfigDifference change = difference(before, after);
  EXPECT_EQ(
      changes_text(change.matters),
      "  run.seed: 1 -> 2\n  model.d_model: 64 -> 96\n  train.spike.policy: \"off\" -> skip\n");
  EXPECT_EQ(changes_text(change.free),
            "  train.steps: 20 -> 40\n  train.micro_batch: auto -> 4\n  eval.every: 500 -> 7\n");
}

TEST(RunConfigTest, DifferenceOfTwoArchitecturesListsTheKeysOfBoth) {
  RunConfig before = small(),
            after = small({"model={architecture: retnet, d_model: 64, n_layers: 2, n_heads: 2}"});
  const std::string text = changes_text(difference(before, after).matters);
  EXPECT_EQ(text.find("  model.architecture: llama -> retnet\n"), 0u) << text;
  EXPECT_NE(text.find("  model.rope_base: 10000 -> (no such key)\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  model.form: (no such key) -> chunk\n"), std::string::npos) << text;
}

TEST(RunConfigTest, WhatTheSamplesOrTheUpdateDependOnMayNotChange) {
  RunConfig defaults = small();
  Fields root;
  defaults.fields(root);
  const auto free = [&](const std::string& section, const std::string& key) {
    for (const Field& s : root.all())
      for (const Field& f : s.children)
        if (s.name == section && f.name == key) return f.may_change;
    ADD_FAILURE() << "no key " << section << "." << key;
    return false;
  };
  for (const char* key :
       {"global_batch", "lr", "schedule", "warmup_steps", "weight_decay", "precision", "clip"})
    EXPECT_FALSE(free("train", key)) << key;
  for (const char* key : {"context", "cross_document", "tokenizer"})
    EXPECT_FALSE(free("data", key)) << key;
  EXPECT_FALSE(free("run", "seed"));
  for (const char* key : {"micro_batch", "steps", "time_limit", "log_every"})
    EXPECT_TRUE(free("train", key)) << key;
  EXPECT_TRUE(free("checkpoint", "keep_last"));
}

TEST(ConfigReferenceTest, CommittedPageIsWhatTheProgramPrints) {
  EXPECT_EQ(read_file(source_dir() + "/docs/config.md"), config_reference_markdown())
      << "run: ./ceiling config explain --markdown > docs/config.md";
}

TEST(ConfigReferenceTest, TopicsAreSectionsKeysLastPartsAndArchitectures) {
  EXPECT_EQ(explain_config("train.lr"),
            "train: optimizer, schedule, precision\n"
            "  train.lr  (number, at least 0; default 3.0e-04)\n"
            "      peak learning rate\n");
  EXPECT_EQ(explain_config("lr"), explain_config("train.lr"));
  EXPECT_NE(explain_config("spike").find("train.spike.policy"), std::string::npos);
  EXPECT_NE(explain_config("train.spike").find("train.spike.policy"), std::string::npos);
  EXPECT_NE(explain_config("retnet").find("model.form"), std::string::npos);
  EXPECT_EQ(explain_config("retnet").find("model.rope_base"), std::string::npos);
  EXPECT_NE(explain_config("data.mixture").find("data.mixture[].weight"), std::string::npos);
  EXPECT_NE(explain_config("").find("log.progress"), std::string::npos);
}

TEST(ConfigReferenceTest, UnknownTopicIsRefusedWithTheNearest) {
  const auto message = [](const std::string& topic) -> std::string {
    try {
      return explain_config(topic);
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(
      message("train.lrr"),
      "'train.lrr' is no configuration key, section or architecture; did you mean 'train.lr'?");
  EXPECT_EQ(message("quite other words"),
            "'quite other words' is no configuration key, section or architecture; `ceiling config "
            "explain` lists all");
}

TEST(ConfigReferenceTest, EveryKeyIsDocumented) {
  RunConfig defaults;
  Fields root;
  defaults.fields(root);
  const std::function<void(const std::vector<Field>&)> walk =
      [&](const std::vector<Field>& fields) {
        for (const Field& field : fields) {
          EXPECT_FALSE(field.doc.empty()) << field.name;
          walk(field.children);
        }
      };
  walk(root.all());
}

TEST(DescriptionTest, ValuesStandInOneColumn) {
  EXPECT_EQ(description_text({{"model", ""}, {"parameters", "1.4 M"}, {"d\u00e9cay", "a\nb"}}),
            "model\nparameters  1.4 M\nd\u00e9cay       a\n            b\n");
}

}  // namespace
}  // namespace ceiling
