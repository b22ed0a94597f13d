// Causal softmax attention on a CPU with grouped key/value heads, cached keys and packed documents.
// The scores of all keys are never held.
#pragma once
#include <ATen/core/Tensor.h>

#include <limits>
#include <optional>

#include "modules/ops/causal_attention/kernels.h"

namespace ceiling {

// y_t = sum_j softmax_j(scale q_t . k_j) v_j over the keys j that query t sees: those of its
// document up to its own place S - T + t, the last `window` of them.
//   q         [B, T, H, head_dim]     float64, float32 or bfloat16, any strides
//   k, v      [B, S, H_kv, head_dim]  S >= T: cached keys come first; H_kv divides H, and a
//                                     key head serves H / H_kv neighbouring query heads
//   document  [B, S] int32            document of each key, not decreasing; undefined: all one
//   window    at least 1; kNoWindow: all keys of the document
//   product   of bfloat16 factors; by default the fastest of this processor
// -> [B, T, H, head_dim]. Sums, statistics and exponentials are float32 (float64 for float64),
// weights are rounded to the dtype. Differentiable in q, k and v; saves them, the result and [B, H,
// T] statistics. The result does not depend on the number of threads.
constexpr int64_t kNoWindow = std::numeric_limits<int64_t>::max();
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& document, double scale, int64_t window = kNoWindow,
                            std::optional<Bf16Product> product = std::nullopt);

// What this processor can do; the best comes last.
std::vector<Bf16Product> bf16_products();

// The same with all scores held, on any device.
at::Tensor causal_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& document, double scale,
                                      int64_t window = kNoWindow);

}  // namespace ceiling
