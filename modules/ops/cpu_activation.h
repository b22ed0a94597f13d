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

// Phi(x) and phi(x) of the standard normal distribution.
template <class A>
struct Normal {
  A cdf, density;
};
inline Normal<double> normal(double x) {
  return {0.5 * ::erfc(-x * 0.70710678118654752), 0.39894228040143268 * ::exp(-0.5 * x * x)};
}
// Phi(-a) = e^(-a^2 / 2) t Q(t) / 2, t = 1 / (1 + 0.4 a / sqrt 2): Q is our least-squares fit of
// erfc(u) e^(u^2) / t over 0 <= u <= 9.5, relative error 1.7e-7 in float.
inline Normal<float> normal(float x) {
  const float a = x < 0 ? -x : x;
  const float t = 1.0f / (1.0f + 0.28284271f * a);
  float q = 0.0402687372f;
  q = q * t - 0.135477056f;
  q = q * t + 0.0738543149f;
  q = q * t + 0.0997158675f;
  q = q * t + 0.0715176138f;
  q = q * t + 0.196959144f;
  q = q * t + 0.200959553f;
  q = q * t + 0.226575578f;
  q = q * t + 0.225626306f;
  const float power = exponential(-0.5f * x * x);
  const float tail = 0.5f * power * t * q;
  return {x < 0 ? tail : 1.0f - tail, 0.39894228f * power};
}

template <Activation kind, class A>
inline ValueAndSlope<A> activate(A x) {
  if constexpr (kind == Activation::kSilu) {
    const A s = sigmoid(x);
    return {x * s, s * (A(1) + x * (A(1) - s))};
  } else if constexpr (kind == Activation::kGelu) {
    const Normal<A> at_x = normal(x);
    return {x * at_x.cdf, at_x.cdf + x * at_x.density};
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
