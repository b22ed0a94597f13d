// act(gate) * up, the middle of a gated feed-forward (Shazeer, arXiv 2002.05202): SwiGLU, GeGLU.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/ops/activation.h"

namespace ceiling {

// gate_up [..., 2F]: gate then up, as one matrix product leaves them -> [..., F].  Saves gate_up
// only.
at::Tensor gated(const at::Tensor& gate_up, Activation activation);

// gate, up [..., F] -> [..., F]: the same of two tensors. Saves both.
at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, Activation activation);

// The first in plain ATen.
at::Tensor gated_reference(const at::Tensor& gate_up, Activation activation);

}  // namespace ceiling
