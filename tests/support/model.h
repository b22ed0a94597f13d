// Small models and batches for tests of whole architectures.
#pragma once
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "modules/lm.h"
#include "modules/registry.h"

namespace ceiling {

struct TestModel {
  std::unique_ptr<ModelConfig> config;
  std::unique_ptr<LanguageModel> model;
};

// Every tiny model of every registered architecture, as "name {yaml}".
std::vector<std::string> tiny_models();
// For INSTANTIATE_TEST_SUITE_P over them: "0_llama__d_model__32_".
std::string tiny_model_name(const ::testing::TestParamInfo<std::string>& info);
// Builds one of them, with random norm weights too, so that a forgotten factor shows.
TestModel make_tiny(const std::string& tiny, at::ScalarType dtype, int64_t vocab_size = 61,
                    uint64_t seed = 1);

at::Tensor random_tokens(int64_t batch, int64_t seq_len, int64_t vocab_size,
                         uint64_t seed);  // [B, T] int32
// The next token of each position; the last position's target is -1.
at::Tensor next_tokens(const at::Tensor& tokens);
void zero_gradients(LanguageModel& model);

}  // namespace ceiling
