// What linear_scan and rg_lru are at one token of a GPU's thread. For kernel_cuda.cu.
#pragma once
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/linear_scan/kernels.h"

namespace ceiling::gpu {

constexpr int kSteps = 8;  // tokens of a thread

__device__ __forceinline__ float root(float x) {
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 - e^u for u <= 0, without loss where u is small.
__device__ __forceinline__ float one_minus_exp(float u, float exp_u) {
  float p = 1.3888889e-3f;
  p = p * u + 8.3333333e-3f;
  p = p * u + 4.1666667e-2f;
  p = p * u + 1.6666667e-1f;
  p = p * u + 0.5f;
  p = p * u + 1.0f;
  return u > -0.25f ? -u * p : 1.0f - exp_u;
}

// N neighbouring channels as loaded: two bfloat16 stay one register until they are used.
template <class T, int N>
struct Raw {
  Pack<T, N> pack;
  __device__ __forceinline__ float operator[](int i) const { return wide(pack.at[i]); }
};
template <>
struct Raw<bf16, 2> {
  unsigned pair;
  __device__ __forceinline__ float operator[](int i) const {
    return __uint_as_float(i == 0 ? pair << 16 : pair & 0xffff0000u);
  }
};
template <class T, int N>
using Steps = Raw<T, N>[kSteps];

// Gates tell what happens at one token of N channels, h = decay h + add, and what a gradient g at
// h, with the state before it, means for their inputs. Decay depends on input kOfDecay alone.

// linear_scan: decay and add are given.
template <class T, int N>
struct Given {
  static constexpr int kInputs = 2, kOfDecay = 0, kParameters = 0;
  __device__ Given(const LinearScanParams&, int64_t, bool) {}
  __device__ void decay(const Steps<T, N> (&in)[kInputs], int s, bool, float (&a)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = in[0][s][i];
  }
  __device__ void step(const Steps<T, N> (&in)[kInputs], int s, bool start, float (&a)[N],
                       float (&b)[N]) const {
    decay(in, s, start, a);
#pragma unroll
    for (int i = 0; i < N; ++i) b[i] = in[1][s][i];
  }
  __device__ void backward(const Steps<T, N> (&in)[kInputs], int s, bool start, const float (&)[N],
                           const float (&g)[N], const float (&before)[N],
                           float (&din)[kInputs][N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      din[0][i] = start ? 0.0f : g[i] * before[i];
      din[1][i] = g[i];
    }
  }
  float dparameter[1][N];
};

// rg_lru.
template <class T, int N>
struct RgLru {
  static constexpr int kInputs = 3, kOfDecay = 1, kParameters = 3;
  __device__ RgLru(const LinearScanParams& p, int64_t column, bool present) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const auto at = [&](int k) {
        return present ? static_cast<const float*>(p.parameter[k])[column + i] : 0.0f;
      };
      const float lambda = at(0);
      log_decay[i] = -8 * (fmaxf(lambda, 0) + log1pf(expf(-fabsf(lambda))));
      slope[i] = -8 / (1 + expf(-lambda));
      bias[0][i] = at(1), bias[1][i] = at(2);
#pragma unroll
      for (int k = 0; k < kParameters; ++k) dparameter[k][i] = 0;
    }
  }
  __device__ float recurrence(const Steps<T, N> (&in)[kInputs], int s, int i) const {
    return sigmoid(in[1][s][i] + bias[0][i]);
  }
  __device__ float input(const Steps<T, N> (&in)[kInputs], int s, int i) const {
    return sigmoid(in[2][s][i] + bias[1][i]);
  }
  __device__ void decay(const Steps<T, N> (&in)[kInputs], int s, bool, float (&a)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = __expf(recurrence(in, s, i) * log_decay[i]);
  }
  __device__ void step(const Steps<T, N> (&in)[kInputs], int s, bool start, float (&a)[N],
                       float (&b)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float log_a = recurrence(in, s, i) * log_decay[i];
      a[i] = __expf(log_a);
      const float scale = start ? 1.0f : root(one_minus_exp(2 * log_a, a[i] * a[i]));
      b[i] = scale * input(in, s, i) * in[0][s][i];
    }
  }
  __device__ void backward(const Steps<T, N> (&in)[kInputs], int s, bool start, const float (&a)[N],
                           const float (&g)[N], const float (&before)[N],
                           float (&din)[kInputs][N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float x = in[0][s][i], gate = input(in, s, i), r = recurrence(in, s, i);
      const float left = one_minus_exp(2 * r * log_decay[i], a[i] * a[i]);
      const float scale = start ? 1.0f : root(left);
      const float dleft = g[i] * gate * x * rsqrtf(fmaxf(4 * left, 1e-6f));
      const float dlog_a = start ? 0.0f : a[i] * (g[i] * before[i] - 2 * a[i] * dleft);
      din[0][i] = g[i] * scale * gate;
      din[1][i] = dlog_a * log_decay[i] * r * (1 - r);
      din[2][i] = g[i] * scale * x * gate * (1 - gate);
      dparameter[0][i] += dlog_a * r * slope[i];
      dparameter[1][i] += din[1][i];
      dparameter[2][i] += din[2][i];
    }
  }
  // -8 softplus(lambda), its derivative by lambda, the biases; gradients of lambda and the biases.
  float log_decay[N], slope[N], bias[2][N], dparameter[kParameters][N];
};

}  // namespace ceiling::gpu
