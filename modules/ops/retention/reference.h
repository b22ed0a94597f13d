// The slow truth: eq. 1 of README.md, token by token, in plain ATen; autograd derives its backward.
#pragma once
#include "modules/ops/retention/retention.h"

namespace ceiling {

// Arguments as of retention(); any device. Arithmetic in float64 for float64, else in float32.
RetentionOutput retention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& log_decay, const at::Tensor& state,
                                    const Segments& segments);

}  // namespace ceiling
