// Causal softmax attention over packed documents, or with a window, on a GPU: no mask, and no work
// on keys that no query sees.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/ops/causal_attention/causal_attention.h"

namespace ceiling {

// bfloat16 on a GPU, heads of a multiple of 8 up to 256.
bool packed_attention_supports(const at::Tensor& q);

// y_t = sum_j softmax_j(scale q_t . k_j) v_j over the keys j <= t of t's document, the last
// `window` of them.
//   q           [B, T, H, head_dim] bfloat16, rows of one document after another
//   k, v        [B, T, H_kv, head_dim], H_kv divides H
//   bounds      [n + 1] int32: of documents in the rows written one after another
//               (Segments::bounds); undefined: each row is a document
//   max_length  no document is longer
//   window      at least 1; kNoWindow: all keys
// -> [B, T, H, head_dim]. Differentiable in q, k and v. Calls cuDNN where cudnn_attention_supports
// says so, elsewhere FlashAttention-2 as torch has it (Dao, arXiv 2307.08691). Backward varies in
// the last bits unless torch is told to be deterministic.
at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& bounds, int64_t max_length, double scale,
                            int64_t window = kNoWindow);

}  // namespace ceiling
