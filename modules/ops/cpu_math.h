// For kernel_cpu.cpp files only: element access with bf16 storage, lane-wise sums, exp and its
// relatives, all written as plain loops and branch-free expressions that the compiler turns into
// vector code. Everything has internal linkage: these files are compiled several times, and the
// linker must not mix the copies.
#pragma once
#include <math.h>

#include <cstdint>

#include "modules/ops/cpu_isa.h"

namespace ceiling {
namespace {

using bf16 = uint16_t;  // storage: the upper half of a float

template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <class T>
using Acc = typename AccOf<T>::type;

inline double load(const double* p, int64_t i) { return p[i]; }
inline float load(const float* p, int64_t i) { return p[i]; }
inline float load(const bf16* p, int64_t i) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(p[i]) << 16);
}

inline void store(double* p, int64_t i, double value) { p[i] = value; }
inline void store(float* p, int64_t i, float value) { p[i] = value; }
// Round to nearest even; not-a-number keeps being one.
inline void store(bf16* p, int64_t i, float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  p[i] = static_cast<bf16>(value == value ? rounded : 0x7fc0u);
}

// Sums over many elements: 16 partial sums, one per lane, added in a fixed order.
constexpr int kLanes = 16;
template <class A, class Term>
inline A lane_sum(int64_t n, const Term& term) {
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  for (int lane = 0; i + lane < n; ++lane) lanes[lane] += term(i + lane);
  A total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  return total;
}
template <class A, class Term>
inline A lane_max(int64_t n, A low, const Term& term) {
  A lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = low;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] = lanes[lane] > term(i + lane) ? lanes[lane] : term(i + lane);
  for (int lane = 0; i + lane < n; ++lane)
    lanes[lane] = lanes[lane] > term(i + lane) ? lanes[lane] : term(i + lane);
  A largest = low;
  for (int lane = 0; lane < kLanes; ++lane) largest = largest > lanes[lane] ? largest : lanes[lane];
  return largest;
}

inline double exponential(double x) { return ::exp(x); }
// exp(x) = 2^n e^r, |r| <= ln 2 / 2, degree-6 polynomial: relative error below 2e-7; 0 below -87.3,
// large but finite above 88.
inline float exponential(float x) {
  const float clamped = x < -87.3f ? -87.3f : x > 88.0f ? 88.0f : x;
  constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent =
      __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kRound);
  const float power = __builtin_bit_cast(float, (exponent + 127) << 23);
  const float value = p * power;
  return x < -87.3f ? 0.0f : value + (x - x);  // x - x: infinity and not-a-number stay visible
}

template <class A>
inline A sigmoid(A x) {
  return A(1) / (A(1) + exponential(-x));
}

template <class T>
struct TypeTag {
  using type = T;
};
// Calls body(TypeTag<T>()) with the storage type that `type` names.
template <class Body>
inline void with_type(CpuType type, const Body& body) {
  if (type == CpuType::kDouble) return body(TypeTag<double>());
  if (type == CpuType::kFloat) return body(TypeTag<float>());
  return body(TypeTag<bf16>());
}

}  // namespace
}  // namespace ceiling
