#include "tests/support/model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "base/random.h"

namespace ceiling {

std::vector<std::string> tiny_models() {
  std::vector<std::string> all;
  for (const Architecture& architecture : architectures())
    for (const std::string& yaml : architecture.tiny) all.push_back(architecture.name + " " + yaml);
  return all;
}

std::string tiny_model_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = std::to_string(info.index) + "_" + info.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !isalnum(c); }, '_');
  return name;
}

TestModel make_tiny(const std::string& tiny, at::ScalarType dtype, int64_t vocab_size,
                    uint64_t seed) {
  const size_t space = tiny.find(' ');
  TestModel made;
  made.config = find_architecture(tiny.substr(0, space)).make_config();
  parse_config(*made.config, parse_config_value(tiny.substr(space + 1), "test"), "model");
  made.config->check();
  made.config->vocab_size = vocab_size;
  made.config->context = 64;
  made.model = made.config->build();
  allocate_parameters(*made.model, dtype, seed);
  at::NoGradGuard no_grad;
  for (Parameter* parameter : made.model->parameters()) {
    const RandomStream stream(seed, "test/" + parameter->name);
    at::Tensor noise = at::empty({parameter->numel()}, at::kDouble);
    for (int64_t i = 0; i < parameter->numel(); ++i)
      noise[i] = 0.05 * stream.normal(static_cast<uint64_t>(i));
    parameter->value.add_(noise.view(parameter->shape).to(parameter->value.scalar_type()));
  }
  return made;
}

at::Tensor random_tokens(int64_t batch, int64_t seq_len, int64_t vocab_size, uint64_t seed) {
  at::Tensor tokens = at::empty({batch, seq_len}, at::kInt);
  const RandomStream stream(seed, "test/tokens");
  int* out = tokens.mutable_data_ptr<int>();
  for (int64_t i = 0; i < tokens.numel(); ++i)
    out[i] =
        static_cast<int>(stream.bits(static_cast<uint64_t>(i)) % static_cast<uint64_t>(vocab_size));
  return tokens;
}

at::Tensor next_tokens(const at::Tensor& tokens) {
  return at::cat({tokens.narrow(1, 1, tokens.size(1) - 1),
                  at::full({tokens.size(0), 1}, -1, tokens.options())},
                 1);
}

void zero_gradients(LanguageModel& model) {
  for (Parameter* parameter : model.parameters()) parameter->grad.zero_();
}

}  // namespace ceiling
