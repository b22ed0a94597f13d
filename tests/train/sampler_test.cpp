// Sampling: which tokens are chosen, and that a prompt of a batch knows nothing of the others.
#include "train/sampler.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/support/dataset.h"
#include "tests/support/expect_error.h"
#include "tests/support/model.h"
#include "tests/support/temp_dir.h"
#include "train/load_model.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

constexpr int64_t kNoEos = -1;

class EachArchitectureSamplerTest : public ::testing::TestWithParam<std::string> {};

TEST_P(EachArchitectureSamplerTest, PromptsOfABatchContinueAsTheyDoAlone) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  std::vector<std::vector<uint32_t>> prompts;
  for (const int64_t length : {1, 3, 17, 70}) {
    const at::Tensor tokens = random_tokens(1, length, 61, static_cast<uint64_t>(length));
    prompts.emplace_back(tokens.const_data_ptr<int>(), tokens.const_data_ptr<int>() + length);
  }
  const SamplingOptions greedy{.temperature = 0, .max_tokens = 40};
  const auto together = generate(*made.model, prompts, kNoEos, greedy, at::kCPU);
  std::set<std::vector<uint32_t>> different;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = generate(*made.model, {prompts[i]}, kNoEos, greedy, at::kCPU);
    EXPECT_EQ(together[i].tokens, alone[0].tokens) << "prompt " << i;
    EXPECT_EQ(together[i].tokens.size(), 40u);
    different.insert(together[i].tokens);
  }
  EXPECT_EQ(different.size(), prompts.size());  // else the model ignores its prompt
}

TEST_P(EachArchitectureSamplerTest, ADocumentLearntByHeartIsGivenBackAndEnds) {
  const TempDir dir;
  const std::set<std::string> documents = {"bread.", "green stone, north window.", "red lamp."};
  std::vector<std::string> texts;
  for (int i = 0; i < 30; ++i) texts.insert(texts.end(), documents.begin(), documents.end());
  write_byte_dataset(dir / "data", texts, {});
  train(tiny_run(GetParam(), dir / "data", dir / "run", 200,
                 {"train.lr=1e-2", "train.warmup_steps=20", "train.log_every=200"}));
  const LoadedModel loaded = load_model(dir / "run", at::kCPU, at::kFloat);
  const auto continued = [&](const std::string& prompt) {
    const auto out =
        generate(*loaded.model, {encode_prompt(*loaded.tokenizer, prompt, loaded.bos())},
                 loaded.tokenizer->info().eos, {.temperature = 0, .max_tokens = 200}, at::kCPU);
    EXPECT_TRUE(out[0].stopped_at_eos) << prompt;
    return prompt + loaded.tokenizer->decode(out[0].tokens);
  };
  EXPECT_TRUE(documents.count(continued(""))) << continued("");
  EXPECT_EQ(continued("green"), "green stone, north window.");
}

INSTANTIATE_TEST_SUITE_P(All, EachArchitectureSamplerTest, ::testing::ValuesIn(tiny_models()),
                         tiny_model_name);

TEST(SamplerTest, PaddingRowsAreNeverChosen) {
  const TestModel made =
      make_tiny("llama {d_model: 32, n_layers: 1, n_heads: 2, vocab_multiple: 64}", at::kFloat);
  const std::vector<std::vector<uint32_t>> prompts(50, std::vector<uint32_t>{1});
  std::set<uint32_t> seen;
  for (const auto& row :
       generate(*made.model, prompts, kNoEos, {.temperature = 1e6, .max_tokens = 100}, at::kCPU))
    seen.insert(row.tokens.begin(), row.tokens.end());
  EXPECT_EQ(*seen.rbegin(), 60u);  // of 64 rows, the tokenizer has 61
  EXPECT_EQ(seen.size(), 61u);
}

TEST(SamplerTest, ChoicesAreAsFrequentAsTheirProbabilities) {
  const std::vector<float> logits = {1.0f, -0.5f, 2.0f, 0.25f};
  const double temperature = 0.7;
  std::vector<double> wanted, found(4, 0);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit / temperature);
  constexpr int kDraws = 10000;
  for (int i = 0; i < kDraws; ++i)
    found[static_cast<size_t>(sample_token(logits.data(), 4, {.temperature = temperature},
                                           (i + 0.5) / kDraws))] += 1.0 / kDraws;
  // Draws on a grid: each share is off by one draw at each end at most.
  for (size_t i = 0; i < 4; ++i)
    EXPECT_NEAR(found[i], std::exp(logits[i] / temperature) / sum, 2.0 / kDraws) << i;
}

TEST(SamplerTest, LimitsLeaveTheMostProbableTokens) {
  const std::vector<float> logits = {1.0f, -0.5f, 2.0f, 0.25f};  // 0.22, 0.05, 0.61, 0.11
  const auto chosen = [&](const SamplingOptions& options) {
    std::set<int64_t> tokens;
    for (int i = 0; i < 200; ++i)
      tokens.insert(sample_token(logits.data(), 4, options, (i + 0.5) / 200));
    return tokens;
  };
  using Tokens = std::set<int64_t>;
  EXPECT_EQ(chosen({.temperature = 0}), Tokens{2});
  EXPECT_EQ(chosen({.temperature = 1e-8}), Tokens{2});
  EXPECT_EQ(chosen({.top_k = 1}), Tokens{2});
  EXPECT_EQ(chosen({.top_k = 2}), (Tokens{0, 2}));
  EXPECT_EQ(chosen({.top_k = 1000}), (Tokens{0, 1, 2, 3}));
  EXPECT_EQ(chosen({.top_p = 1e-9}), Tokens{2});
  EXPECT_EQ(chosen({.top_p = 0.7}), (Tokens{0, 2}));
  EXPECT_EQ(chosen({.top_p = 1}), (Tokens{0, 1, 2, 3}));
}

TEST(SamplerTest, ImpossibleOptionsAreRefused) {
  expect_error([] { check_sampling({.temperature = -1}); },
               "temperature: -1 is not allowed, must be at least 0 (0 takes the most probable "
               "token)");
  expect_error([] { check_sampling({.temperature = std::nan("")}); },
               "temperature: nan is not allowed, must be at least 0 (0 takes the most probable "
               "token)");
  expect_error([] { check_sampling({.top_k = -1}); },
               "top-k: -1 is not allowed, must be at least 0 (0 allows all tokens)");
  for (const double p : {0.0, 1.5})
    expect_error([&] { check_sampling({.top_p = p}); },
                 fmt::format("top-p: {} is not allowed, must be above 0 and at most 1", p));
  check_sampling({.temperature = 0, .top_k = 1'000'000, .top_p = 1});
}

}  // namespace
}  // namespace ceiling
