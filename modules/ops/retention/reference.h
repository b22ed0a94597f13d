// The slow truth: eq. 1 of README.md, token by token, in plain ATen; autograd derives its backward.
#pragma once
#include "modules/ops/retention/retention.h"

namespace ceiling {

// Arguments as of retention(); any device. Arithmetic in float64 for float64, else in float32.
RetentionOutput retention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& log_decay, const at::Tensor& state,
                                    const Segments& segments);

// The same by eq. 2, all pairs of tokens at once, in float64: for short sequences a hundred times
// as fast, as autograd keeps no state a token.
RetentionOutput retention_reference_by_pairs(const at::Tensor& q, const at::Tensor& k,
                                             const at::Tensor& v, const at::Tensor& log_decay,
                                             const at::Tensor& state, const Segments& segments);

}  // namespace ceiling
