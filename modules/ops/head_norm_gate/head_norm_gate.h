// RetNet's epilogue (arXiv 2307.08621, section 2.3): RMSNorm of each head's output, times a gate.
// README.md has the backward.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/ops/activation.h"
#include "modules/ops/gradient_place.h"
#include "modules/parameter.h"

namespace ceiling {

// y = o / sqrt(mean_V(o^2) + eps) * weight * act(gate)
//   o       [B, T, H, V] float64, float32 or bfloat16
//   gate    [B, T, H V], rows may be strided (a slice of a fused projection)
//   weight  [V], shared by the heads, or null
// -> [B, T, H V].  Saves o and gate, whose gradient goes to `gate_place` if there is one.
at::Tensor head_norm_gate(const at::Tensor& o, const at::Tensor& gate, const Parameter* weight,
                          double eps, Activation activation, const GradientPlace& gate_place = {});

// The same in plain ATen; weight undefined for none.
at::Tensor head_norm_gate_reference(const at::Tensor& o, const at::Tensor& gate,
                                    const at::Tensor& weight, double eps, Activation activation);

}  // namespace ceiling
