// Properties of training as a whole, for every architecture: resume is bitwise, accumulation equals
// the large batch, decay reaches only what it should, skipped and stopped steps leave everything as
// it was.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <csignal>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/stop.h"
#include "base/text.h"
#include "checkpoints/safetensors.h"
#include "checkpoints/store.h"
#include "modules/ops/device.h"
#include "tests/support/dataset.h"
#include "tests/support/model.h"
#include "tests/support/temp_dir.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

const char* kLlama = "llama {d_model: 32, n_layers: 2, n_heads: 2, d_ff: 48}";

std::map<std::string, at::Tensor> weights_at(const std::string& run_dir, int64_t step) {
  SafetensorsFile file(fmt::format("{}/checkpoints/step-{:08}/weights.safetensors", run_dir, step));
  std::map<std::string, at::Tensor> weights;
  for (const auto& entry : file.entries()) weights[entry.name] = file.read(entry.name);
  return weights;
}

std::vector<nlohmann::json> metrics_of(const std::string& run_dir, const std::string& event) {
  std::vector<nlohmann::json> lines;
  for (const std::string& line : split(read_file(run_dir + "/metrics.jsonl"), '\n')) {
    if (line.empty()) continue;
    auto json = nlohmann::json::parse(line);
    if (json.at("event") == event) lines.push_back(std::move(json));
  }
  return lines;
}

void expect_bitwise(const std::map<std::string, at::Tensor>& a,
                    const std::map<std::string, at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, value] : a) EXPECT_TRUE(at::equal(value, b.at(name))) << name;
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "(no error)";
}

class TrainingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    data_ = dir_ / "data";
    write_byte_dataset(data_, made_up_documents(60, 1), made_up_documents(6, 2));
  }
  std::string run_dir(const std::string& name) { return dir_ / name; }
  TempDir dir_;
  std::string data_;
};

class EachArchitectureTest : public TrainingTest,
                             public ::testing::WithParamInterface<std::string> {};

TEST_P(EachArchitectureTest, ResumedRunEqualsUninterruptedBitForBit) {
  train(tiny_run(GetParam(), data_, run_dir("whole"), 6));
  // checkpoint.every 2, cut after step 4 by dropping everything later: what kill -9 leaves.
  train(tiny_run(GetParam(), data_, run_dir("cut"), 6, {"checkpoint.every=2"}));
  fs::remove_all(run_dir("cut") + "/checkpoints/step-00000006");
  train(tiny_run(GetParam(), data_, run_dir("cut"), 6, {"checkpoint.every=2"}));
  expect_bitwise(weights_at(run_dir("whole"), 6), weights_at(run_dir("cut"), 6));
  const auto whole = metrics_of(run_dir("whole"), "step"), cut = metrics_of(run_dir("cut"), "step");
  ASSERT_EQ(whole.size(), 6u);
  ASSERT_EQ(cut.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(whole[i].at("loss_nats"), cut[i].at("loss_nats"));
    EXPECT_EQ(whole[i].at("data_hash"), cut[i].at("data_hash"));
  }
}

TEST_P(EachArchitectureTest, GradientAccumulationEqualsTheLargeBatch) {
  std::vector<std::vector<nlohmann::json>> runs;
  std::vector<std::map<std::string, at::Tensor>> weights;
  for (const int64_t micro : {8, 4, 3, 1}) {
    const std::string dir = run_dir("micro" + std::to_string(micro));
    train(tiny_run(
        GetParam(), data_, dir, 5,
        {"train.global_batch=8", fmt::format("train.micro_batch={}", micro), "train.lr=1e-3"}));
    runs.push_back(metrics_of(dir, "step"));
    weights.push_back(weights_at(dir, 5));
  }
  for (size_t r = 1; r < runs.size(); ++r) {
    for (size_t i = 0; i < runs[0].size(); ++i) {
      for (const char* key : {"loss_nats", "grad_norm"}) {
        const double want = runs[0][i].at(key), got = runs[r][i].at(key);
        EXPECT_NEAR(got, want, 2e-6 * want) << key << " at step " << i + 1;
      }
      EXPECT_EQ(runs[0][i].at("data_hash"), runs[r][i].at("data_hash"));
    }
  }
}

TEST_P(EachArchitectureTest, WeightDecayReachesMatricesOnly) {
  const double lr = 1e-2, decay = 0.5;
  for (const double wd : {0.0, decay})
    train(tiny_run(GetParam(), data_, run_dir(fmt::format("wd{}", wd)), 1,
                   {fmt::format("train.lr={}", lr), fmt::format("train.weight_decay={}", wd)}));
  RunConfig config = tiny_run(GetParam(), data_, run_dir("init"), 1);
  config.model.config->vocab_size = 258;
  const auto model = config.model.config->build();
  const auto with = weights_at(run_dir("wd0.5"), 1), without = weights_at(run_dir("wd0"), 1);
  for (const Parameter* parameter : model->parameters()) {
    at::Tensor before = at::empty(parameter->shape, at::kFloat);
    initialize(*parameter, 1, before);
    const at::Tensor difference = without.at(parameter->name) - with.at(parameter->name);
    // Weights of products and convolutions; not gains, biases, nor what a recurrence is made of.
    const std::string& name = parameter->name;
    const bool decays = name.ends_with(".weight") && !name.ends_with("norm.weight");
    if (decays) {
      const double size = std::max(1.0, before.abs().max().item<double>());  // a rounding of it
      EXPECT_LT((difference - lr * decay * before).abs().max().item<double>(), 1e-7 * size) << name;
    } else {
      EXPECT_TRUE(at::equal(with.at(parameter->name), without.at(parameter->name))) << name;
    }
  }
}

TEST_P(EachArchitectureTest, LossFallsOnOneBatch) {
  write_byte_dataset(dir_ / "one", {std::string(140, 'a') + "bc" + std::string(20, 'd')}, {});
  const std::string dir = run_dir("one");
  train(tiny_run(GetParam(), dir_ / "one", dir, 30, {"train.lr=1e-2"}));
  const auto steps = metrics_of(dir, "step");
  EXPECT_LT(steps.back().at("loss_nats").get<double>(),
            0.3 * steps.front().at("loss_nats").get<double>());
}

INSTANTIATE_TEST_SUITE_P(All, EachArchitectureTest, ::testing::ValuesIn(tiny_models()),
                         tiny_model_name);

class EachArchitectureGpuTest : public EachArchitectureTest {};

// Of shapes that have kernels and those that have none, with several documents in a row.
TEST_P(EachArchitectureGpuTest, RecordedStepsEqualOrdinaryOnesAndInFloatTheCpus) {
  pick_device("cuda");
  const auto losses_of = [&](const std::string& name, const std::string& device,
                             const std::string& precision, bool graph) {
    train(tiny_run(GetParam(), data_, run_dir(name), 6,
                   {"run.device=" + device, "train.precision=" + precision, "train.micro_batch=1",
                    fmt::format("train.cuda_graph={}", graph), "train.lr=1e-3"}));
    std::vector<double> losses;
    for (const auto& step : metrics_of(run_dir(name), "step"))
      losses.push_back(step.at("loss_nats"));
    return losses;
  };
  const auto expect_near = [](const std::vector<double>& got, const std::vector<double>& want,
                              double relative) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], relative * want[i]) << "step " << i + 1;
  };
  const auto cpu = losses_of("cpu", "cpu", "fp32", false);
  ASSERT_EQ(cpu.size(), 6u);
  expect_near(losses_of("fp32", "cuda", "fp32", true), cpu, 1e-4);
  expect_near(losses_of("fp32-ordinary", "cuda", "fp32", false), cpu, 1e-4);
  expect_near(losses_of("bf16", "cuda", "bf16", true),
              losses_of("bf16-ordinary", "cuda", "bf16", false), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(All, EachArchitectureGpuTest, ::testing::ValuesIn(tiny_models()),
                         tiny_model_name);

TEST_F(TrainingTest, LearningRateZeroLeavesEveryWeightBitEqual) {
  train(tiny_run(kLlama, data_, run_dir("zero"), 5, {"train.lr=0", "checkpoint.every=1"}));
  expect_bitwise(weights_at(run_dir("zero"), 1), weights_at(run_dir("zero"), 5));
}

TEST_F(TrainingTest, AFinishedRunSaysSoAndMoreStepsContinueIt) {
  const std::string dir = run_dir("more");
  EXPECT_EQ(train(tiny_run(kLlama, data_, dir, 3)), kFinished);
  const auto three = weights_at(dir, 3);
  EXPECT_EQ(train(tiny_run(kLlama, data_, dir, 3)), kFinished);
  expect_bitwise(three, weights_at(dir, 3));
  EXPECT_EQ(train(tiny_run(kLlama, data_, dir, 5)), kFinished);
  EXPECT_EQ(metrics_of(dir, "step").size(), 5u);
}

// A request to stop during the last evaluation saves the last step without it.
TEST_F(TrainingTest, AFinishedRunThatLacksItsLastEvaluationMakesItOnce) {
  const std::string dir = run_dir("unjudged");
  const auto run = [&] { return train(tiny_run(kLlama, data_, dir, 4, {"eval.every=2"})); };
  ASSERT_EQ(run(), kFinished);
  const auto all = metrics_of(dir, "valid");
  ASSERT_EQ(all.size(), 2u);
  std::string kept;
  for (const std::string& line : split(read_file(dir + "/metrics.jsonl"), '\n'))
    if (!line.empty() && line.find(R"("event":"valid","loss_nats":)") == std::string::npos)
      kept += line + "\n";
  write_file_atomic(dir + "/metrics.jsonl", kept);
  ASSERT_EQ(metrics_of(dir, "valid").size(), 0u);
  for (int again = 0; again < 2; ++again) {
    ASSERT_EQ(run(), kFinished);
    const auto made = metrics_of(dir, "valid");
    ASSERT_EQ(made.size(), 1u);
    EXPECT_EQ(made[0].at("step"), 4);
    EXPECT_EQ(made[0].at("loss_nats"), all[1].at("loss_nats"));
  }
}

TEST_F(TrainingTest, AnotherSeedModelOrDatasetInTheSameFolderIsRefused) {
  const std::string dir = run_dir("same");
  train(tiny_run(kLlama, data_, dir, 2));
  EXPECT_NE(message_of([&] {
              train(tiny_run(kLlama, data_, dir, 2, {"run.seed=2"}));
            }).find("run.seed: 1 -> 2"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              train(tiny_run(kLlama, data_, dir, 2, {"model.d_model=64"}));
            }).find("model.d_model: 32 -> 64"),
            std::string::npos);
  write_byte_dataset(data_, made_up_documents(30, 1), made_up_documents(6, 2));
  const std::string changed = message_of([&] { train(tiny_run(kLlama, data_, dir, 4)); });
  EXPECT_NE(changed.find("the data is not what the run was trained on"), std::string::npos)
      << changed;
  EXPECT_NE(changed.find("  parts/0/documents: 60 -> 30\n"), std::string::npos) << changed;
  EXPECT_EQ(changed.find("vocab_size"), std::string::npos) << changed;  // that is the same
  EXPECT_EQ(fs::exists(dir + "/checkpoints/step-00000002"), true);
}

TEST_F(TrainingTest, ADatasetMayMoveBetweenTwoSessions) {
  train(tiny_run(kLlama, data_, run_dir("moved"), 2, {"train.schedule=constant"}));
  train(tiny_run(kLlama, data_, run_dir("stays"), 4, {"train.schedule=constant"}));
  fs::rename(data_, dir_ / "elsewhere");
  train(tiny_run(kLlama, dir_ / "elsewhere", run_dir("moved"), 4, {"train.schedule=constant"}));
  expect_bitwise(weights_at(run_dir("stays"), 4), weights_at(run_dir("moved"), 4));
}

TEST_F(TrainingTest, ASignalSavesAndTheNextRunContinuesBitForBit) {
  train(tiny_run(kLlama, data_, run_dir("whole"), 200));
  const std::string dir = run_dir("stopped"), metrics = dir + "/metrics.jsonl";
  stop::install_handlers();
  std::thread sender([&] {
    // Once some steps are done: the rest of the run is long beside this loop.
    while (!fs::exists(metrics) || fs::file_size(metrics) < 1000) std::this_thread::yield();
    std::raise(SIGUSR1);
  });
  const int code = train(tiny_run(kLlama, data_, dir, 200));
  sender.join();
  stop::reset();
  EXPECT_EQ(code, 128 + SIGUSR1);
  EXPECT_LT(metrics_of(dir, "step").size(), 200u);
  EXPECT_EQ(train(tiny_run(kLlama, data_, dir, 200)), kFinished);
  expect_bitwise(weights_at(run_dir("whole"), 200), weights_at(dir, 200));
}

TEST_F(TrainingTest, TheTimeLimitStopsWithItsOwnExitCodeAndACheckpoint) {
  const std::string dir = run_dir("limited");
  EXPECT_EQ(train(tiny_run(kLlama, data_, dir, 100000, {"train.time_limit=1s"})),
            kTimeLimitReached);
  EXPECT_TRUE(CheckpointStore(dir + "/checkpoints").latest_valid([](const auto&, const auto&) {}));
}

TEST_F(TrainingTest, NotANumberStopsAndNamesTheFirstBadTensor) {
  const std::string message = message_of([&] {
    train(tiny_run(kLlama, data_, run_dir("nan"), 50,
                   {"train.lr=10", "train.clip=0", "model.init_std=1e18"}));
  });
  EXPECT_NE(message.find("not finite. First bad tensor: "), std::string::npos) << message;
  EXPECT_NE(message.find("Nothing was updated"), std::string::npos) << message;
}

TEST_F(TrainingTest, ASkippedSpikeLeavesWeightsAndMomentsUnchanged) {
  auto texts = made_up_documents(200, 1);
  for (size_t i = 0; i < texts.size(); ++i)
    texts[i] = "all the same words again and again and again and again";
  std::string noise;
  for (int i = 0; i < 400; ++i) noise += static_cast<char>('A' + (i * 7919) % 50);
  texts[150] = noise;
  write_byte_dataset(dir_ / "noisy", texts, {});
  const std::string dir = run_dir("spike");
  train(tiny_run(kLlama, dir_ / "noisy", dir, 90,
                 {"train.spike.policy=skip", "train.spike.window=20", "train.spike.threshold=6",
                  "train.lr=1e-3", "checkpoint.every=1", "checkpoint.keep_last=100"}));
  const auto skips = metrics_of(dir, "skip");
  ASSERT_FALSE(skips.empty());
  const int64_t step = skips[0].at("step");
  expect_bitwise(weights_at(dir, step - 1), weights_at(dir, step));
}

TEST_F(TrainingTest, EvaluationCountsEveryTargetOnceAtAnyBatch) {
  std::vector<nlohmann::json> results;
  for (const int64_t batch : {1, 3, 64}) {
    const std::string dir = run_dir("eval" + std::to_string(batch));
    train(tiny_run(kLlama, data_, dir, 2, {"eval.every=2", fmt::format("eval.batch={}", batch)}));
    results.push_back(metrics_of(dir, "valid").at(0));
  }
  for (const auto& result : results) {
    EXPECT_EQ(result.at("n_targets"), results[0].at("n_targets"));
    EXPECT_NEAR(result.at("loss_nats").get<double>(), results[0].at("loss_nats").get<double>(),
                1e-6);
  }
}

TEST_F(TrainingTest, LossesOfASecondDocumentDoNotDependOnTheFirst) {
  for (const bool bos : {true, false}) {
    const std::string second = "market silver silver walk river seven market river.";
    std::vector<double> sums;
    for (const std::string first : {"stone garden carry", "letter table bread"}) {
      // One row holds both documents; evaluation of the row minus that of the first document alone
      // is the second's share.
      write_byte_dataset(dir_ / "pair", {"unused text, but long enough for one whole sample of it"},
                         {first, second}, bos);
      write_byte_dataset(dir_ / "alone",
                         {"unused text, but long enough for one whole sample of it"}, {first}, bos);
      const auto nats = [&](const std::string& data) {
        const std::string dir = run_dir("doc");
        fs::remove_all(dir);
        train(tiny_run(kLlama, data, dir, 1,
                       {"eval.every=1", "data.context=96", "train.lr=0", "train.global_batch=1",
                        "train.micro_batch=1", "data.context=40"}));
        const auto valid = metrics_of(dir, "valid").at(0);
        return std::pair(valid.at("loss_nats").get<double>() * valid.at("n_targets").get<double>(),
                         valid.at("n_targets").get<int64_t>());
      };
      const auto [both, n_both] = nats(dir_ / "pair");
      const auto [one, n_one] = nats(dir_ / "alone");
      // Every token of the second document is a target but its first; EOS is one.
      EXPECT_EQ(n_both - n_one, static_cast<int64_t>(second.size()) + (bos ? 1 : 0));
      sums.push_back(both - one);
    }
    EXPECT_NEAR(sums[0], sums[1], 1e-4 * sums[0]);
  }
}

TEST_F(TrainingTest, AReadOnlyRunFolderIsRefusedBeforeAnyWork) {
  const std::string message = message_of([&] {
    RunConfig config = tiny_run(kLlama, data_, run_dir("x"), 1);
    config.run.dir = "/proc/nowhere";
    train(std::move(config));
  });
  EXPECT_NE(message.find("/proc/nowhere: cannot create the run folder"), std::string::npos)
      << message;
}

}  // namespace
}  // namespace ceiling
