// packed_attention by cuDNN's kernels, which fill the tensor cores of an H100 better than
// FlashAttention-2 does. README.md says what is known of them.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/ops/causal_attention/causal_attention.h"

namespace ceiling {

// bfloat16 on an H100 or H200 with the cuDNN that torch 2.11 comes with or a later one, heads of a
// multiple of 16 up to 256, more than one token, and cuDNN neither switched off (WithoutCudnn) nor
// forbidden because torch is to be deterministic: its backward is not. It depends on nothing else,
// so that all steps of a run go one way.
bool cudnn_attention_supports(const at::Tensor& q, int64_t max_length);

// Arguments and result of packed_attention (packed_attention.h). Differentiable in q, k and v;
// saves them, the result, statistics (4 bytes a token and head) and what `bounds` says.
// Plans of one shape are made when it is first seen, for about a second, and kept; documents are
// filled up with empty ones to a power of two, so that there are few shapes. `bounds` is not read
// by the host. Backward takes 4 bytes a number of q as a workspace, and with shared key heads 4
// more.
// Throws Error, with cuDNN's reason, if it refuses the shape.
at::Tensor cudnn_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& bounds, int64_t max_length, double scale,
                           int64_t window = kNoWindow);

}  // namespace ceiling
