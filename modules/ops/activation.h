// The activations of gated units, as numbers that kernels may read.
#pragma once

namespace ceiling {

enum class Activation {
  kSilu,
  kGelu,
  kGeluTanh
};  // x sigmoid(x); x Phi(x); its tanh approximation

}  // namespace ceiling
