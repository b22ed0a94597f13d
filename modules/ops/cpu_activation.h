// For kernel_cpu.cpp files only: activations and their derivatives, given once and used by every
// gated op.
#pragma once
#include "modules/ops/activation.h"
#include "modules/ops/cpu_math.h"

namespace ceiling {
namespace {

template <class A>
struct ValueAndSlope {
  A value, slope;
};

template <Activation kind, class A>
inline ValueAndSlope<A> activate(A x) {
  if constexpr (kind == Activation::kSilu) {
    const A s = sigmoid(x);
    return {x * s, s * (A(1) + x * (A(1) - s))};
  } else if constexpr (kind == Activation::kGelu) {
    const A cdf = A(0.5) * (A(1) + static_cast<A>(erf(x * A(0.70710678118654752))));
    const A density = A(0.39894228040143268) * exponential(A(-0.5) * x * x);
    return {x * cdf, cdf + x * density};
  } else {
    const A inner = A(0.79788456080286536) * (x + A(0.044715) * x * x * x);
    // tanh(u) = 1 - 2 / (e^2u + 1), written with the bounded exponential.
    const A t = A(1) - A(2) / (exponential(A(2) * inner) + A(1));
    const A inner_slope = A(0.79788456080286536) * (A(1) + A(0.134145) * x * x);
    return {A(0.5) * x * (A(1) + t),
            A(0.5) * (A(1) + t) + A(0.5) * x * (A(1) - t * t) * inner_slope};
  }
}

template <Activation kind>
struct ActivationTag {
  static constexpr Activation value = kind;
};
template <class Body>
inline void with_activation(Activation activation, const Body& body) {
  if (activation == Activation::kSilu) return body(ActivationTag<Activation::kSilu>());
  if (activation == Activation::kGelu) return body(ActivationTag<Activation::kGelu>());
  return body(ActivationTag<Activation::kGeluTanh>());
}

}  // namespace
}  // namespace ceiling
