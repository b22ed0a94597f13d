// Zero-shot probes of recall: what a model scores, on the command line and during training.
#include "train/recall_probe.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/files.h"
#include "base/text.h"
#include "tests/support/command.h"
#include "tests/support/dataset.h"
#include "tests/support/expect_error.h"
#include "tests/support/model.h"
#include "tests/support/ranks.h"
#include "tests/support/temp_dir.h"
#include "train/load_model.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

const char* kLlama = "llama {d_model: 32, n_layers: 2, n_heads: 2, d_ff: 48}";

std::vector<uint32_t> ids_between(uint32_t first, uint32_t last) {
  std::vector<uint32_t> ids;
  for (uint32_t id = first; id < last; ++id) ids.push_back(id);
  return ids;
}

std::vector<nlohmann::json> events(const std::string& run_dir, const std::string& event) {
  std::vector<nlohmann::json> found;
  for (const std::string& line : split(read_file(run_dir + "/metrics.jsonl"), '\n'))
    if (!line.empty() && nlohmann::json::parse(line).at("event") == event)
      found.push_back(nlohmann::json::parse(line));
  return found;
}

TEST(RecallProbe, AModelWithRandomWeightsIsAtChance) {
  const TestModel made = make_tiny(kLlama, at::kFloat, 64);
  const auto scores =
      probe_recall(*made.model, ids_between(0, 64), {.contexts = {32, 64}}, at::kCPU);
  ASSERT_EQ(scores.size(), 10u);
  for (const RecallScore& score : scores) {
    const auto n = static_cast<double>(score.n_targets);
    EXPECT_EQ(score.chance, 1.0 / 64);
    EXPECT_LT(score.accuracy, score.chance + 5 * std::sqrt(score.chance / n)) << score.probe;
    EXPECT_GT(score.nats, std::log(64) - 0.5) << score.probe;
  }
  EXPECT_EQ(scores[0].probe, "induction");
  EXPECT_EQ(scores[0].context, 32);
  EXPECT_EQ(scores[1].context, 64);
}

// The task's tokens are the ordinary tokens here, and its layout is the probe's.
TEST(RecallProbe, AModelThatLearntToCopyIsFoundToCopy) {
  const TempDir dir;
  train(tiny_run(
      "llama {d_model: 64, n_layers: 2, n_heads: 1, d_ff: 64}", "", dir / "run", 120,
      {"data.task=copying", "data.context=32", "train.global_batch=64", "train.micro_batch=64",
       "train.warmup_steps=20", "eval.every=never", "train.log_every=100"}));
  const LoadedModel loaded = load_model(dir / "run", at::kCPU, at::kFloat);
  std::map<std::string, RecallScore> scores;
  for (const RecallScore& score :
       probe_recall(*loaded.model, ids_between(2, 64), {.contexts = {32}}, at::kCPU))
    scores[score.probe] = score;
  EXPECT_GT(scores["copying"].accuracy, 0.9);
  EXPECT_LT(scores["copying"].nats, 0.5);
  EXPECT_EQ(scores["copying"].n_targets, 64 * 15);
}

TEST(RecallProbe, ScoresDoNotDependOnBatchesOrRanks) {
  const auto ids = ids_between(3, 61);
  const auto run = [&](int64_t tokens_at_once, Communicator* world) {
    const TestModel made = make_tiny(kLlama, at::kFloat);
    return probe_recall(*made.model, ids,
                        {.contexts = {32}, .n_samples = 13, .tokens_at_once = tokens_at_once},
                        at::kCPU, world);
  };
  const auto expect_same = [](const std::vector<RecallScore>& a,
                              const std::vector<RecallScore>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].n_targets, b[i].n_targets);
      EXPECT_EQ(a[i].accuracy, b[i].accuracy);
      EXPECT_NEAR(a[i].nats, b[i].nats, 1e-5) << "fp32 products of another batch size";
    }
  };
  const auto alone = run(1, nullptr);
  expect_same(run(5 * 32, nullptr), alone);
  std::vector<std::vector<RecallScore>> of_ranks(3);
  expect_no_errors(on_ranks(3, [&](CpuCommunicator& world) {
    of_ranks[static_cast<size_t>(world.rank())] = run(2 * 32, &world);
  }));
  for (const auto& scores : of_ranks) expect_same(scores, alone);
}

class RecallProbeRunTest : public ::testing::Test {
 protected:
  RecallProbeRunTest() {
    write_byte_dataset(data_, made_up_documents(60, 1), made_up_documents(6, 2));
  }
  RunConfig config(const std::string& name, int64_t steps, std::vector<std::string> changes) const {
    changes.insert(changes.begin(), "eval.every=2");
    return tiny_run(kLlama, data_, dir_ / name, steps, changes);
  }
  std::string weights(const std::string& name, const std::string& step) const {
    return read_file(dir_ / name + "/checkpoints/" + step + "/weights.safetensors");
  }
  TempDir dir_;
  std::string data_ = dir_ / "data";
};

const char* kAll = "eval.recall=[induction, copying, phonebook, needle, mqar]";

TEST_F(RecallProbeRunTest, EachEvaluationProbesAndNothingElseChanges) {
  train(config("with", 4, {kAll, "eval.recall_samples=3", "log.tensorboard=true"}));
  train(config("without", 4, {}));
  EXPECT_EQ(weights("with", "step-00000004"), weights("without", "step-00000004"));
  for (const char* key : {"loss_nats", "data_hash"})
    EXPECT_EQ(events(dir_ / "with", "step").back().at(key),
              events(dir_ / "without", "step").back().at(key));
  EXPECT_EQ(events(dir_ / "with", "valid").back().at("loss_nats"),
            events(dir_ / "without", "valid").back().at("loss_nats"));
  EXPECT_TRUE(events(dir_ / "without", "recall").empty());
  const auto recall = events(dir_ / "with", "recall");
  ASSERT_EQ(recall.size(), 2u);
  EXPECT_EQ(recall[1].at("step"), 4);
  EXPECT_EQ(recall[1].at("context"), 32);
  EXPECT_EQ(recall[1].at("chance"), 1.0 / 95) << "printable characters";
  EXPECT_EQ(recall[1].at("copying").at("n_targets"), 3 * 15);
  for (const std::string& probe : recall_probes())
    for (const char* key : {"accuracy", "loss_nats"})
      EXPECT_TRUE(recall[1].at(probe).contains(key)) << probe;

  EXPECT_NE(read_file(dir_ / "with/log.txt").find("recall at step 4 | induction "),
            std::string::npos);
  for (const auto& file : fs::directory_iterator(dir_ / "with/tensorboard")) {
    const std::string written = read_file(file.path());
    for (const char* tag : {"recall/needle/accuracy", "recall/mqar/loss_nats", "valid/loss_nats"})
      EXPECT_NE(written.find(tag), std::string::npos) << tag;
  }
}

TEST_F(RecallProbeRunTest, ResumedRunEqualsUninterruptedBitForBit) {
  train(config("whole", 6, {kAll, "eval.recall_samples=3"}));
  const auto cut = [&] {
    return config("cut", 6, {kAll, "eval.recall_samples=3", "checkpoint.every=2"});
  };
  train(cut());
  fs::remove_all(dir_ / "cut/checkpoints/step-00000006");
  train(cut());
  EXPECT_EQ(weights("cut", "step-00000006"), weights("whole", "step-00000006"));
  EXPECT_EQ(events(dir_ / "cut", "recall"), events(dir_ / "whole", "recall"));
  // Whether and what is probed may change when a run goes on.
  train(config("cut", 8, {"eval.recall=[needle]"}));
  EXPECT_FALSE(events(dir_ / "cut", "recall").back().contains("mqar"));
}

TEST_F(RecallProbeRunTest, ConfigsThatCannotBeProbedAreRefused) {
  expect_error([&] { config("x", 1, {"eval.recall=[needle, echo]"}); },
               "command line: eval.recall: 'echo' is no recall probe; any of induction, copying, "
               "phonebook, needle, mqar");
  expect_error(
      [&] {
        config("x", 1, {kAll, "eval.every=never"});
      },
      "command line: eval.recall: needs evaluations, but eval.every is never");
  expect_error(
      [&] {
        tiny_run(kLlama, "", dir_ / "x", 1, {"data.task=needle", "eval.recall=[needle]"});
      },
      "command line: eval.recall: probes are for language models; the model of the synthetic task "
      "needle knows no text, and its own test set is what it is evaluated on");
  expect_error(
      [&] {
        train(config("short", 1, {kAll, "data.context=12"}));
      },
      "recall probe induction: a context of 12 is too short, it must be at least 16");
}

TEST_F(RecallProbeRunTest, EvalProbesAtSeveralLengthsWithAndWithoutData) {
  train(config("run", 2, {"eval.recall=[needle, copying]"}));
  const std::string run = dir_ / "run";
  const auto json = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", run, "--recall", "--json"});
    const Outcome outcome = ceiling_command(more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out);
  };
  const auto alone = json({});
  EXPECT_FALSE(alone.contains("loss_nats"));
  ASSERT_EQ(alone.at("recall").size(), 5u);
  const auto in_training = events(run, "recall").back();
  for (const auto& score : alone.at("recall")) {
    for (const char* key : {"probe", "context", "accuracy", "loss_nats", "n_targets", "chance"})
      EXPECT_TRUE(score.contains(key)) << key;
    EXPECT_EQ(score.at("context"), 32) << "that of the training";
    if (in_training.contains(score.at("probe"))) {
      const auto& then = in_training.at(score.at("probe").get<std::string>());
      EXPECT_EQ(score.at("accuracy"), then.at("accuracy"));
      EXPECT_EQ(score.at("n_targets"), then.at("n_targets"));
    }
  }
  const auto both = json({"--data", data_, "--recall-context", "16,64", "--recall-samples", "2"});
  EXPECT_TRUE(both.contains("loss_nats"));
  EXPECT_EQ(both.at("context"), 32);
  ASSERT_EQ(both.at("recall").size(), 10u);
  EXPECT_EQ(both.at("recall")[3].at("probe"), "copying");
  EXPECT_EQ(both.at("recall")[3].at("context"), 64);
  EXPECT_EQ(both.at("recall")[3].at("n_targets"), 2 * 31);

  const std::string table = ceiling_command({"eval", run, "--recall"}).out;
  EXPECT_NE(table.find("recall       context   accuracy    chance  loss (nats)   answers\n"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("\nphonebook "), std::string::npos) << table;
  EXPECT_EQ(table.find("perplexity"), std::string::npos) << table;
}

TEST_F(RecallProbeRunTest, EvalSaysWhatCannotBeProbed) {
  train(config("run", 1, {}));
  EXPECT_EQ(ceiling_command({"eval", dir_ / "run", "--recall", "--recall-context", "8"}).code, 2);
  EXPECT_EQ(ceiling_command({"eval", dir_ / "run", "--recall-samples", "8"}).code, 2)
      << "without --recall";
  EXPECT_NE(ceiling_command({"eval", dir_ / "run", "--recall", "--by-position"})
                .err.find("--by-position: is about the loss on a dataset; name one with --data"),
            std::string::npos);
  EXPECT_NE(ceiling_command({"eval", dir_ / "run"})
                .err.find("--data: name a dataset folder made by `ceiling prepare`, or give "
                          "--recall to probe the model without one"),
            std::string::npos);
  train(tiny_run(kLlama, "", dir_ / "task", 1, {"data.task=mqar", "data.recall.vocab_size=64"}));
  const Outcome outcome = ceiling_command({"eval", dir_ / "task", "--recall"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("--recall: " + (dir_ / "task") +
                             "/checkpoints/step-00000001 was trained on the synthetic task mqar "
                             "and knows no text; probes are for language models. Leave --recall "
                             "out to evaluate on the task's own test set"),
            std::string::npos)
      << outcome.err;
  const std::string help = ceiling_command({"eval", "--help"}).out;
  for (const char* option : {"--recall ", "--recall-context", "--recall-samples", "--by-position"})
    EXPECT_NE(help.find(option), std::string::npos) << option;
}

}  // namespace
}  // namespace ceiling
