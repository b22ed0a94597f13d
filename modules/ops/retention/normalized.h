// Retention with torchscale's score normalisers (arch: RetNet, dialect torchscale). They keep fp16
// in range and, because of the epsilon inside the head norm that follows, change results slightly;
// the forms therefore are not equal to each other, in the authors' code as here: chunkwise against
// parallel up to 2e-3, recurrent against parallel up to 1e-4 on the logits.
#pragma once
#include "modules/ops/retention/retention.h"

namespace ceiling {

// c_t = gamma c_{t-1} + 1, the sum of decays that the recurrent form divides by; carried beside the
// state.
struct NormalizedRetentionState {
  at::Tensor kv;     // [B, H, K, V] float32 (float64): S_t / sqrt(c_t)
  at::Tensor scale;  // [B, H]: c_t
};

struct NormalizedRetentionOutput {
  at::Tensor o;  // [B, T, H, V]
  NormalizedRetentionState state;
};

// kRecurrent: o_t = q_t S_t / sqrt(c_t). The only form that takes and gives a state; differentiable
// through it.
NormalizedRetentionOutput normalized_retention_recurrent(const at::Tensor& q, const at::Tensor& k,
                                                         const at::Tensor& v,
                                                         const at::Tensor& log_decay,
                                                         const NormalizedRetentionState& state,
                                                         const Segments& segments, int64_t chunk);

// kParallel: rows of scores divided by the root of their decays' sum, then by their own absolute
// sum within [1, 5e4], detached.
at::Tensor normalized_retention_parallel(const at::Tensor& q, const at::Tensor& k,
                                         const at::Tensor& v, const at::Tensor& log_decay,
                                         const Segments& segments);

// kChunk: the same within a chunk, and a state whose scale is aligned with the rows'. Error with
// document boundaries, which the authors' chunkwise form does not know.
at::Tensor normalized_retention_chunk(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& log_decay, const Segments& segments,
                                      int64_t chunk);

}  // namespace ceiling
