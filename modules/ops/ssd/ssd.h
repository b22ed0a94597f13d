// State space duality, the sequence mixing of Mamba-2 (Dao and Gu, arXiv 2405.21060): retention
// whose decays and weights come from a time step per token and head. README.md has the backward.
//   Delta_t = clamp(softplus(dt_t + dt_bias)),  A = -exp(A_log)
//   S_t = exp(Delta_t A) S_{t-1} + Delta_t B_t^T x_t,   y_t = C_t S_t + D x_t
#pragma once
#include <ATen/core/Tensor.h>

#include <limits>

#include "modules/ops/retention/retention.h"
#include "modules/parameter.h"

namespace ceiling {

struct SsdParameters {
  // [H] each, float32 (float64 for float64 inputs).
  const Parameter &a_log, &d, &dt_bias;
};

struct SsdOptions {
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();  // of Delta
  RetentionForm form = RetentionForm::kChunk;
  int64_t chunk = 64;  // as retention's
};

struct SsdOutput {
  at::Tensor y;      // [B, T, H, P], dtype of x
  at::Tensor state;  // [B, H, N, P]: S after the last token, float32 (float64 for float64 inputs)
};

//   x         [B, T, H, P]  float64, float32 or bfloat16, any strides; T >= 1
//   dt        [B, T, H]     dtype of x, any strides
//   b, c      [B, T, G, N]  dtype of x, any strides; shared by the H / G heads of a group: head h
//             is of group h / (H / G)
//   state     [B, H, N, P]  what an earlier call returned, or undefined: zeros
//   segments  where documents start; there S_{t-1} is zero
// Differentiable in x, dt, b, c and state, through both outputs; adds into the gradients of the
// parameters. Delta is in float32 (float64), linear where dt + dt_bias is above 20; a Delta outside
// [dt_min, dt_max] is clamped and passes no gradient. Delta x enters the products in the dtype of
// x. The gradient of the decay is a running sum (retention.h): in bfloat16 on a GPU its error grows
// with the root of the length, and gradients of dt, dt_bias and A_log inherit it; not with P 64, N
// 64 or 128 in chunks, where no sum passes a chunk's end. Saves its inputs.
// Results do not depend on the number of threads. Throws Error if shapes, dtypes or devices
// disagree.
SsdOutput ssd(const at::Tensor& x, const at::Tensor& dt, const at::Tensor& b, const at::Tensor& c,
              const SsdParameters& parameters, const at::Tensor& state, const Segments& segments,
              const SsdOptions& options);

// The same token by token in plain ATen: any dtype and device; autograd derives its backward.
// a_log, d, dt_bias as tensors.
SsdOutput ssd_reference(const at::Tensor& x, const at::Tensor& dt, const at::Tensor& b,
                        const at::Tensor& c, const at::Tensor& a_log, const at::Tensor& d,
                        const at::Tensor& dt_bias, const at::Tensor& state,
                        const Segments& segments, const SsdOptions& options);

}  // namespace ceiling
