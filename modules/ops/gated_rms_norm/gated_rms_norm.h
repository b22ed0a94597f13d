// RMSNorm of a gated input, before Mamba-2's output projection (Dao and Gu, arXiv 2405.21060,
// section 7): s = x silu(gate), y = s / sqrt(mean(s^2) + eps) w, the mean over each of `groups`
// equal parts of the channels; README.md has the backward. head_norm_gate is the other order.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"

namespace ceiling {

// x, gate [B, T, E] float64, float32 or bfloat16 (statistics in float32 then), any strides; weight
// [E]. Saves x and gate; backward computes the norms again.
at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& gate, const Parameter& weight,
                          int64_t groups, double eps);

// The same in plain ATen: any dtype and device; autograd derives its backward.
at::Tensor gated_rms_norm_reference(const at::Tensor& x, const at::Tensor& gate,
                                    const at::Tensor& weight, int64_t groups, double eps);

}  // namespace ceiling
