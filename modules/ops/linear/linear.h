// Matrix product with a parameter whose gradient is accumulated in the wide gradient buffer.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"

namespace ceiling {

// x [..., in], weight [out, in], bias [out] or none -> x W^T + bias [..., out].
// Backward: dx = dy W; weight.grad += dy^T x; bias.grad += the sum of dy over all rows. On a GPU
// bfloat16 factors are accumulated straight into the float32 buffer by one GEMM (out_dtype, beta
// 1); on a CPU a bfloat16 product of the micro-batch is added to it. Saves x, or what its recipe
// needs (modules/ops/again.h).
at::Tensor linear(const at::Tensor& x, const Parameter& weight, const Parameter* bias = nullptr);

// residual + x W^T (+ bias), the sum with the residual made by the GEMM; residual [..., out].
at::Tensor linear_add(const at::Tensor& x, const Parameter& weight, const at::Tensor& residual,
                      const Parameter* bias = nullptr);

// grad += dy^T x for dy [n, out], x [n, in], grad [out, in] float32 (float64): what linear's
// backward does.
void accumulate_weight_grad(const at::Tensor& grad, const at::Tensor& dy, const at::Tensor& x);

}  // namespace ceiling
