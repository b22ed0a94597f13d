// y = x / sqrt(mean(x^2) + eps) * w over the last dimension (Zhang and Sennrich, arXiv 1910.07467);
// README.md has the backward.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"

namespace ceiling {

// x [..., D] float64, float32 or bfloat16 (statistics in float32 then), any strides; weight [D].
// Saves x and 1/rms.
at::Tensor rms_norm(const at::Tensor& x, const Parameter& weight, double eps);

struct AddRmsNormOutput {
  at::Tensor y;         // [..., D]
  at::Tensor residual;  // [..., D]: x + residual, rounded to its dtype; what y is the norm of
};

// The norm of x + residual, and the sum itself, in one pass. Differentiable in both, through both
// outputs.
AddRmsNormOutput add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                              const Parameter& weight, double eps);

// The norm of x, and x once more for those who add to it: the gradient of both meets in the pass of
// the norm's backward. Of what rms_norm() alone gives, autograd would add them in a pass of its
// own.
AddRmsNormOutput rms_norm_beside(const at::Tensor& x, const Parameter& weight, double eps);

// The same in plain ATen: any dtype and device; autograd derives its backward.
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace ceiling
