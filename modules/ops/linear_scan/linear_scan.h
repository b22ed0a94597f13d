// First-order diagonal recurrences: every channel is its own state of one number.
//   linear_scan  h_t = a_t h_{t-1} + b_t
//   rg_lru       the same with a and b from gates (De et al., arXiv 2402.19427, eq. 1-4), fused
// Math, backward and floors: README.md
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"
#include "modules/segments.h"

namespace ceiling {

struct LinearScanOutput {
  at::Tensor h;      // [B, T, D], dtype of the inputs
  at::Tensor state;  // [B, D]: h after the last token, float32 (float64 for float64 inputs)
};

//   a, b      [B, T, D]  float64, float32 or bfloat16, any strides; T >= 1
//   state     [B, D]     what an earlier call returned, or undefined: zeros
//   segments  where documents start; there h_{t-1} is zero, and so is the gradient to it
// Differentiable in a, b and state, through both outputs. Saves a, b, state and h. Arithmetic and
// state are in float32 (float64 for float64). Throws Error if shapes, dtypes or devices disagree.
LinearScanOutput linear_scan(const at::Tensor& a, const at::Tensor& b, const at::Tensor& state,
                             const Segments& segments);

// What the gates of the RG-LRU hold beside their matrices: D numbers each, used in float32
// (float64).
struct RgLruParameters {
  const Parameter& lambda;  // r = 1 gives a = sigmoid(-lambda)^8
  const Parameter& recurrence_bias;
  const Parameter& input_bias;
};

// r_t = sigmoid(recurrence_t + recurrence_bias), i_t = sigmoid(input_t + input_bias),
// a_t = exp(-8 r_t softplus(lambda)), h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t.
//   x, recurrence, input  [B, T, D]  float64, float32 or bfloat16, any strides; T >= 1
//   state     [B, D]  what an earlier call returned; undefined: every row starts a document
//   segments  where documents start; there h_t = i_t x_t, without the root, as the authors' code
// Differentiable in x, recurrence, input and state, through both outputs; adds to the gradients of
// the parameters. As in the authors' code the derivative of the root is at most 1000. Saves its
// arguments and h. Throws Error if shapes, dtypes or devices disagree.
LinearScanOutput rg_lru(const at::Tensor& x, const at::Tensor& recurrence, const at::Tensor& input,
                        const RgLruParameters& parameters, const at::Tensor& state,
                        const Segments& segments);

}  // namespace ceiling
