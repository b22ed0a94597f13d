// Causal softmax attention over packed documents on a GPU: no mask, and no work between documents.
#pragma once
#include <ATen/core/Tensor.h>

namespace ceiling {

// bfloat16 on a GPU, heads of a multiple of 8 up to 256, and known bounds.
bool packed_attention_supports(const at::Tensor& q, const at::Tensor& bounds);

// y_t = sum_j softmax_j(scale q_t . k_j) v_j over the keys j <= t of t's document.
//   q           [B, T, H, head_dim] bfloat16, rows of one document after another
//   k, v        [B, T, H_kv, head_dim], H_kv divides H
//   bounds      [n + 1] int32: of documents in the rows written one after another
//   (Segments::bounds) max_length  no document is longer
// -> [B, T, H, head_dim]. Differentiable in q, k and v. Calls FlashAttention-2 as torch has it
// (Dao, arXiv 2307.08691); its backward varies in the last bits unless torch is told to be
// deterministic.
at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& bounds, int64_t max_length, double scale);

}  // namespace ceiling
