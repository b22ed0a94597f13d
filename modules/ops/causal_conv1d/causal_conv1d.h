// Causal convolution of each channel over time by a short kernel of its own, as before the scans of
// Mamba (Gu and Dao, arXiv 2312.00752) and Griffin (De et al., arXiv 2402.19427); README.md.
//   y_t = act(bias + sum_k w_k x_{t - (W - 1) + k})
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"
#include "modules/segments.h"

namespace ceiling {

struct CausalConv1dOutput {
  at::Tensor y;  // [B, T, C], dtype of x
  at::Tensor
      state;  // [B, W - 1, C]: the last inputs, oldest first; zero before the present document
};

//   x         [B, T, C]  float64, float32 or bfloat16, any strides; T >= 1
//   weight    [C, 1, W]  dtype of x, 2 <= W <= 4; the last tap is that of the present token
//   bias      [C] or null
//   state     [B, W - 1, C]  what an earlier call returned, dtype of x; or undefined: zeros
//   segments  where documents start; no tap reaches over a start
//   silu      whether act is x sigmoid(x); else y is the sum itself
// Differentiable in x and state, through both outputs; adds into the gradients of weight and bias.
// Sums are in float32 (float64 for float64), weight gradients over fixed pieces of time: results do
// not depend on the number of threads. Saves its inputs; backward computes the sums again. Throws
// Error if shapes, dtypes or devices disagree.
CausalConv1dOutput causal_conv1d(const at::Tensor& x, const Parameter& weight,
                                 const Parameter* bias, const at::Tensor& state,
                                 const Segments& segments, bool silu);

// The same in plain ATen: any dtype, device and W; autograd derives its backward.
CausalConv1dOutput causal_conv1d_reference(const at::Tensor& x, const at::Tensor& weight,
                                           const at::Tensor& bias, const at::Tensor& state,
                                           const Segments& segments, bool silu);

}  // namespace ceiling
