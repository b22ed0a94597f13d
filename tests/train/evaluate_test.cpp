// Losses over all targets, by position and by sample: the same sums in three cuts.
#include "train/evaluate.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/text.h"
#include "tests/support/command.h"
#include "tests/support/dataset.h"
#include "tests/support/model.h"
#include "tests/support/ranks.h"
#include "tests/support/temp_dir.h"
#include "train/device_batch.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

const char* kLlama = "llama {d_model: 32, n_layers: 2, n_heads: 2, d_ff: 48}";
constexpr int64_t kContext = 20;  // no power of two: the last bin is cut

class EvaluateTest : public ::testing::Test {
 protected:
  EvaluateTest() { write_byte_dataset(data_, made_up_documents(60, 1), made_up_documents(6, 2)); }

  LoaderOptions text() const {
    LoaderOptions o;
    o.parts = {{data_, 1.0}};
    o.split = Split::kValid, o.context = kContext;
    return o;
  }
  LoaderOptions task() const {
    LoaderOptions o;
    o.recall = RecallOptions{.task = "mqar", .vocab_size = 61, .n_items = 3, .n_test = 37};
    o.split = Split::kValid, o.context = kContext;
    return o;
  }
  static EvaluationResult run(const LoaderOptions& data, int64_t micro_batch,
                              Communicator* world = nullptr) {
    const int64_t vocab_size = data.recall ? 61 : 258;
    const TestModel made = make_tiny(kLlama, at::kFloat, vocab_size);
    return evaluate(*made.model, data, {.micro_batch = micro_batch}, at::kCPU, world);
  }

  TempDir dir_;
  std::string data_ = dir_ / "data";
};

void expect_sums_agree(const EvaluationResult& result) {
  double by_sample = 0, by_position = 0;
  int64_t n_by_sample = 0, n_by_position = 0, n_right = 0;
  double n_right_by_position = 0;
  for (const SampleScore& sample : result.samples)
    by_sample += sample.nats, n_by_sample += sample.n_targets, n_right += sample.n_right;
  for (const PositionScore& at : result.by_position) {
    by_position += at.nats * static_cast<double>(at.n_targets), n_by_position += at.n_targets;
    n_right_by_position += at.accuracy.value_or(0) * static_cast<double>(at.n_targets);
  }
  const auto n = static_cast<double>(result.n_targets);
  EXPECT_EQ(n_by_sample, result.n_targets);
  EXPECT_EQ(n_by_position, result.n_targets);
  EXPECT_EQ(static_cast<int64_t>(result.samples.size()), result.n_samples);
  // fp64 sums in another order.
  EXPECT_NEAR(by_sample / n, result.nats, 1e-12);
  EXPECT_NEAR(by_position / n, result.nats, 1e-12);
  EXPECT_NEAR(n_right_by_position, static_cast<double>(n_right), 1e-9);
  EXPECT_NEAR(static_cast<double>(n_right) / n, result.accuracy.value_or(0), 1e-12);
}

TEST_F(EvaluateTest, PositionsAndSamplesAddUpToTheTotal) {
  expect_sums_agree(run(text(), 4));
  const EvaluationResult of_task = run(task(), 4);
  expect_sums_agree(of_task);
  EXPECT_TRUE(of_task.accuracy);
  EXPECT_EQ(of_task.n_targets, 37 * 3);
}

TEST_F(EvaluateTest, EachTargetIsCountedWhereItsInputTokenStands) {
  const TestModel made = make_tiny(kLlama, at::kFloat, 258);
  LoaderOptions in_order = text();
  in_order.shuffle = false, in_order.global_batch = 1;
  std::vector<double> nats(kContext);
  std::vector<int64_t> counts(kContext);
  std::vector<double> sample_nats;
  Loader loader(in_order);
  while (const auto batch = loader.next()) {
    at::NoGradGuard no_grad;
    const DeviceBatch row = to_device(*batch, 0, 1, at::kCPU);
    const at::Tensor losses = made.model
                                  ->loss(made.model->hidden(row.tokens, row.segments, nullptr),
                                         row.targets, {.per_token = true})
                                  .token_loss;
    sample_nats.push_back(losses.to(at::kDouble).sum().item<double>());
    for (int64_t t = 0; t < kContext; ++t) {
      nats[static_cast<size_t>(t)] += losses[0][t].item<double>();
      counts[static_cast<size_t>(t)] += batch->targets[t] >= 0;
    }
  }
  const EvaluationResult result = evaluate(*made.model, text(), {.micro_batch = 1}, at::kCPU);
  const std::vector<std::pair<int64_t, int64_t>> bins = {{0, 0}, {1, 1},  {2, 3},
                                                         {4, 7}, {8, 15}, {16, 19}};
  ASSERT_EQ(result.by_position.size(), bins.size());
  for (size_t i = 0; i < bins.size(); ++i) {
    const PositionScore& at = result.by_position[i];
    EXPECT_EQ(std::pair(at.first, at.last), bins[i]);
    double sum = 0;
    int64_t n = 0;
    for (int64_t t = at.first; t <= at.last; ++t)
      sum += nats[static_cast<size_t>(t)], n += counts[static_cast<size_t>(t)];
    EXPECT_EQ(at.n_targets, n);
    EXPECT_NEAR(at.nats, sum / static_cast<double>(n), 1e-12);
    ASSERT_TRUE(at.bits_per_byte);
    EXPECT_NEAR(*at.bits_per_byte / at.nats, result.bits_per_byte / result.nats, 1e-12);
  }
  ASSERT_EQ(result.samples.size(), sample_nats.size());
  for (size_t i = 0; i < sample_nats.size(); ++i)
    EXPECT_NEAR(result.samples[i].nats, sample_nats[i], 1e-11);
}

TEST_F(EvaluateTest, PositionsWithoutTargetsAreLeftOut) {
  for (const PositionScore& at : run(task(), 8).by_position) {
    EXPECT_GE(at.last, 6) << "the first six tokens are the pairs";
    EXPECT_GT(at.n_targets, 0);
  }
}

TEST_F(EvaluateTest, SamplesAreThoseOfEveryMicroBatch) {
  for (const LoaderOptions& data : {text(), task()}) {
    const EvaluationResult one = run(data, 1), seven = run(data, 7);
    EXPECT_EQ(one.data_fingerprint, seven.data_fingerprint);
    ASSERT_EQ(one.samples.size(), seven.samples.size());
    for (size_t i = 0; i < one.samples.size(); ++i) {
      EXPECT_EQ(one.samples[i].n_targets, seven.samples[i].n_targets);
      EXPECT_EQ(one.samples[i].n_right, seven.samples[i].n_right);
      // fp32 matrix products of another batch size round otherwise: 20 losses of about 5 each.
      EXPECT_NEAR(one.samples[i].nats, seven.samples[i].nats, 1e-4);
    }
  }
}

TEST_F(EvaluateTest, SeveralRanksGiveTheResultOfOneOnEveryRank) {
  for (const LoaderOptions& data : {text(), task()}) {
    const nlohmann::json alone = to_json(run(data, 1));
    expect_no_errors(on_ranks(3, [&](CpuCommunicator& world) {
      LoaderOptions mine = data;
      mine.rank = world.rank(), mine.world_size = world.size();
      const nlohmann::json result = to_json(run(mine, 1, &world));
      for (const auto& [key, value] : alone.items())
        if (key != "seconds" && key != "by_position" && result.at(key) != value)
          throw Error("{} is {} instead of {}", key, result.at(key).dump(), value.dump());
      // Its sums over samples are made rank by rank.
      for (size_t i = 0; i < alone.at("by_position").size(); ++i) {
        nlohmann::json bin = result.at("by_position").at(i);
        const nlohmann::json& wanted = alone.at("by_position").at(i);
        for (const auto& [key, value] : wanted.items())
          if (std::abs(bin.at(key).get<double>() - value.get<double>()) > 1e-12)
            throw Error("bin {} is {} instead of {}", i, bin.dump(), wanted.dump());
      }
    }));
  }
}

TEST_F(EvaluateTest, FingerprintsTellSamplesApart) {
  LoaderOptions shorter = text(), allowing = text();
  shorter.context = kContext - 1, allowing.cross_document = true;
  const std::string fingerprint = run(text(), 4).data_fingerprint;
  EXPECT_EQ(fingerprint.size(), 64u);
  EXPECT_NE(run(shorter, 4).data_fingerprint, fingerprint);
  EXPECT_NE(run(allowing, 4).data_fingerprint, fingerprint);
}

TEST_F(EvaluateTest, TheCommandPrintsSamplesAndPositions) {
  const std::string run = dir_ / "run";
  train(tiny_run(kLlama, data_, run, 1));
  const Outcome outcome = ceiling_command({"eval", run, "--data", data_, "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
  const auto json = nlohmann::json::parse(outcome.out);
  for (const char* key :
       {"checkpoint", "data", "split", "context", "loss_nats", "perplexity", "bits_per_byte",
        "n_targets", "n_samples", "seconds", "data_fingerprint", "tokenizer_sha256"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_FALSE(json.contains("accuracy"));
  double nats = 0;
  for (const double sample : json.at("sample_nats")) nats += sample;
  const double n_targets = json.at("n_targets");
  EXPECT_EQ(nats / n_targets, json.at("loss_nats")) << "sums are made in the order of samples";
  EXPECT_EQ(json.at("sample_targets").size(), json.at("n_samples"));
  EXPECT_EQ(json.at("by_position").back().at("last"), 31);

  const std::string table = ceiling_command({"eval", run, "--data", data_, "--by-position"}).out;
  const size_t head = table.find("position       targets  loss (nats)  bits per byte\n");
  ASSERT_NE(head, std::string::npos) << table;
  EXPECT_NE(table.find("\n          16-31  ", head), std::string::npos) << table;
  EXPECT_EQ(ceiling_command({"eval", run, "--data", data_}).out.find("16-31"), std::string::npos);
}

}  // namespace
}  // namespace ceiling
