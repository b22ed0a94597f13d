// The output head and the cross-entropy as one function that never holds all logits.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"

namespace ceiling {

struct LinearCrossEntropyOptions {
  int64_t vocab_size = 0;  // rows of the weight beyond it are padding: no probability, no gradient
  double scale = 1;        // loss = scale * sum of token losses
  double z_loss = 0;       // adds scale * z_loss * sum of (log sum exp logits)^2
  double logit_cap = 0;    // logits -> cap tanh(logits / cap); 0: none
  int64_t chunk = 0;       // rows whose logits exist at a time; 0: chosen for the device
  bool per_token = false;
};

struct LinearCrossEntropyOutput {
  at::Tensor loss;        // scalar, float32 (float64)
  at::Tensor token_loss;  // targets' shape, float32 (float64), without scale and z-loss, 0 where
                          // ignored; if per_token
};

// hidden [..., D], weight [rows, D], targets [...] int32, -1 = ignored.
// With gradients wanted, they are made chunk by chunk in the forward pass: dW goes into weight.grad
// at once, d hidden is saved for the backward pass. So this is the end of the graph: the incoming
// gradient must be 1 (asserted on a CPU). Statistics in float32; the sum of losses in
// float64, in row order.
LinearCrossEntropyOutput linear_cross_entropy(const at::Tensor& hidden, const Parameter& weight,
                                              const at::Tensor& targets,
                                              const LinearCrossEntropyOptions& options);

// Logits [..., vocab_size] in float32 (float64), for inference.
at::Tensor logits(const at::Tensor& hidden, const Parameter& weight, int64_t vocab_size,
                  double logit_cap);

// Plain ATen, all logits at once: the oracle. Differentiable.
at::Tensor linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& weight,
                                          const at::Tensor& targets,
                                          const LinearCrossEntropyOptions& options);

}  // namespace ceiling
