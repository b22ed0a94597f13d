// A small checkpoint with everything a real one has.
#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/zeros_like.h>

#include "checkpoints/store.h"

namespace ceiling {

// `rows` of the embedding set the size: 64 bytes each with its moments.
inline CheckpointContent sample_content(int64_t step, int64_t seed = 1, int64_t rows = 5) {
  const auto value = [&](int64_t n, double offset) {
    return at::sin(at::arange(n, at::kFloat) + static_cast<double>(step + 100 * seed) + offset);
  };
  CheckpointContent content;
  content.step = step;
  content.weights = {{"embedding.weight", value(rows * 4, 0.1).view({rows, 4})},
                     {"norm.weight", value(4, 0.2)}};
  content.flat = {{"m", value(rows * 4 + 4, 0.3)}, {"v", value(rows * 4 + 4, 0.4)}};
  content.layout_hash = "layout";
  content.state = {{"step", step}, {"loss_nats", 3.25}, {"data_hash", "00"}};
  content.files = {{"config.yaml", "run: {dir: x}\n"}, {"tokenizer.model", "model"}};
  return content;
}

inline std::vector<NamedTensor> zeros_like(const std::vector<NamedTensor>& tensors) {
  std::vector<NamedTensor> zeros;
  for (const NamedTensor& tensor : tensors)
    zeros.push_back({tensor.name, at::zeros_like(tensor.value)});
  return zeros;
}

}  // namespace ceiling
