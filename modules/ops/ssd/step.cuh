// For kernels of ssd: time steps from dt, and rows.
#pragma once
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/ssd/kernels.h"

namespace ceiling::gpu {

struct Step {
  float delta, slope;  // Delta, and its derivative after dt
};
__device__ __forceinline__ Step step_of(const SsdParams& p, float dt, int64_t h) {
  const float pre = dt + static_cast<const float*>(p.dt_bias)[h];
  const float delta = pre > 20.0f ? pre : log1pf(expf(pre));
  const float slope = pre > 20.0f ? 1.0f : sigmoid(pre);
  const float low = static_cast<float>(p.dt_min), high = static_cast<float>(p.dt_max);
  if (delta < low) return {low, 0.0f};
  if (delta > high) return {high, 0.0f};
  return {delta, slope};
}
// The slope of a step that is there already: log(1 + e^x) = delta, of which the derivative is
// 1 - e^-delta.
__device__ __forceinline__ float slope_of(const SsdParams& p, float delta) {
  const bool inside = delta > static_cast<float>(p.dt_min) && delta < static_cast<float>(p.dt_max);
  return inside ? -expm1f(-delta) : 0.0f;
}
__device__ __forceinline__ float decay_rate(const SsdParams& p, int64_t h) {
  return -expf(static_cast<const float*>(p.a_log)[h]);
}

template <class T>
__device__ __forceinline__ const T* row_of(const SsdRows& rows, const SsdParams& p, int64_t token) {
  return static_cast<const T*>(rows.data) + token / p.seq_len * rows.batch_stride +
         token % p.seq_len * rows.time_stride;
}

}  // namespace ceiling::gpu
