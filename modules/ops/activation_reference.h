#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/silu.h>

#include "modules/ops/activation.h"

namespace ceiling {

inline at::Tensor activate(const at::Tensor& x, Activation activation) {
  if (activation == Activation::kSilu) return at::silu(x);
  return at::gelu(x, activation == Activation::kGelu ? "none" : "tanh");
}

}  // namespace ceiling
