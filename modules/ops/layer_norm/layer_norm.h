// y = (x - mean(x)) / sqrt(var(x) + eps) * w + b over the last dimension (Ba et al., arXiv
// 1607.06450); README.md has the backward.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"

namespace ceiling {

// x [..., D] float64, float32 or bfloat16 (statistics in float32 then), any strides; weight [D];
// bias [D] or null. Saves x, mean and 1/deviation.
at::Tensor layer_norm(const at::Tensor& x, const Parameter& weight, const Parameter* bias,
                      double eps);

// The same in plain ATen: any dtype and device; autograd derives its backward. bias may be
// undefined.
at::Tensor layer_norm_reference(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& bias, double eps);

}  // namespace ceiling
