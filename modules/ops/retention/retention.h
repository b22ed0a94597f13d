// Retention: linear attention with a decay, the sequence mixing of RetNet (Sun et al., arXiv
// 2307.08621, section 2).
//   S_t = gamma_t S_{t-1} + k_t^T v_t,  o_t = q_t S_t      math, backward and floors: README.md
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "modules/ops/gradient_place.h"
#include "modules/segments.h"

namespace ceiling {

// How the same numbers are computed, forward and backward.
//   kParallel   scores of all pairs of tokens: O(T^2) work, T x T memory while it runs
//   kChunk      pairs within a chunk, a state from chunk to chunk: O(T (C + K)) work
//   kRecurrent  token by token: O(T K) work, the form of decoding
enum class RetentionForm { kParallel, kChunk, kRecurrent };

struct RetentionOutput {
  at::Tensor o;      // [B, T, H, V], dtype of v
  at::Tensor state;  // [B, H, K, V]: S after the last token, float32 (float64 for float64 inputs)
};

//   q, k       [B, T, H, K]  float64, float32 or bfloat16, any strides; T >= 1
//   v          [B, T, H, V]  dtype of q, any strides
//   log_decay  [H] or [B, T, H]  ln gamma, finite and <= 0, any float dtype, on the CPU or on the
//              device of q. [H]: one fixed decay per head (RetNet). [B, T, H]: data-dependent, as
//              in simple GLA and Mamba-2 (modules/ops/ssd).
//   state      [B, H, K, V]  what an earlier call returned, or undefined: zeros. It decays before
//              the first token, too.
//   segments   where documents start; there S_{t-1} is zero, and so is the gradient to it
//   chunk      the chunk form's C, at least 1: an upper bound, kernels may take shorter pieces
//   v_place    [B, T, H V], where kernels may leave the gradient of v
// Differentiable in q, k, v, log_decay and state, through both outputs. Every form saves q, k, v,
// the decays and the incoming state, never a state per chunk or token: backward recomputes them.
// Arithmetic and state are in float32 (float64 for float64); on a GPU the operands of bfloat16
// products stay bfloat16, and the error of the decay gradient, a running sum over T of differences
// of such products, grows with the root of T. Forms agree to rounding, and results do not depend on
// the number of threads. Throws Error if shapes, dtypes or devices disagree.
RetentionOutput retention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& log_decay, const at::Tensor& state,
                          const Segments& segments, RetentionForm form, int64_t chunk,
                          const GradientPlace& v_place = {});

}  // namespace ceiling
