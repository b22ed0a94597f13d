// For kernel_cuda.cu files: 16-byte accesses, conversion, sums over a warp and a block, and the way
// from a run-time type or activation to a template.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "modules/ops/activation.h"
#include "modules/ops/cpu_isa.h"
#include "modules/ops/cuda/ptx.cuh"

namespace ceiling::gpu {

using bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr int kSms = 132;  // of an H100; grids that stride over rows are sized by it

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// N neighbouring elements, moved as one access of up to 16 bytes; the address must be a multiple of
// its size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <class T>
constexpr int kPack = 16 / sizeof(T);  // elements of the widest access

template <int N, class T>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = wide(pack.at[i]);
}
template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&from)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.at[i] = narrow<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The sum over all threads of the block, in every thread. `lanes`: kThreads / kWarp floats of
// shared memory; ends in a barrier, so it may be used again at once.
template <int kThreads>
__device__ __forceinline__ float block_sum(float x, float* lanes) {
  if constexpr (kThreads == kWarp) return warp_sum(x);
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) lanes[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp) x += lanes[warp];
  __syncthreads();
  return x;
}

constexpr float kLog2E = 1.44269504f;

__device__ __forceinline__ float sigmoid(float x) { return inverse(1.0f + exp2_of(-kLog2E * x)); }

// An activation and its derivative.
struct Activated {
  float value, slope;
};
template <Activation kind>
__device__ __forceinline__ Activated activate(float x) {
  if constexpr (kind == Activation::kSilu) {
    const float s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  } else if constexpr (kind == Activation::kGelu) {
    const float cdf = 0.5f * (1.0f + erff(x * 0.70710678f));
    return {x * cdf, cdf + x * 0.39894228f * __expf(-0.5f * x * x)};
  } else {
    constexpr float kScale = 0.79788456f, kCube = 0.044715f;
    const float t = tanhf(kScale * (x + kCube * x * x * x));
    return {0.5f * x * (1.0f + t),
            0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kScale * (1.0f + 3.0f * kCube * x * x)};
  }
}

template <class T>
struct TypeTag {
  using type = T;
};
// Calls body(TypeTag<T>()) for kFloat or kBFloat16; ops keep float64 away from their kernels.
template <class Body>
void with_type(CpuType type, const Body& body) {
  if (type == CpuType::kFloat) return body(TypeTag<float>());
  return body(TypeTag<bf16>());
}
template <Activation kind>
struct ActivationTag {
  static constexpr Activation value = kind;
};
template <class Body>
void with_activation(Activation activation, const Body& body) {
  if (activation == Activation::kSilu) return body(ActivationTag<Activation::kSilu>());
  if (activation == Activation::kGelu) return body(ActivationTag<Activation::kGelu>());
  return body(ActivationTag<Activation::kGeluTanh>());
}

inline bool aligned16(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

}  // namespace ceiling::gpu
