// AdamW on a GPU. Bound: HBM, 34 bytes per element with a bfloat16 copy (162 M parameters: 1.8 ms
// at 3.0 TB/s). Four elements per thread and 16-byte accesses where the range allows; groups begin
// at multiples of 128 elements.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "modules/ops/adamw/cuda.h"

namespace ceiling {
namespace {

constexpr int kThreads = 256;

struct Rates {
  float beta1, beta2, keep1, keep2;  // keep = 1 - beta, rounded once: 1 - 0.999f misses by 5e-5
  float eps, scale, decay, size, root;
};

__device__ __forceinline__ void update(const Rates& r, float& w, float& g, float& m, float& v) {
  const float grad = g * r.scale;
  m = r.beta1 * m + r.keep1 * grad;
  v = r.beta2 * v + r.keep2 * grad * grad;
  w = w * r.decay - r.size * m / (sqrtf(v) * r.root + r.eps);
  g = 0;
}

__global__ __launch_bounds__(kThreads) void kernel(Rates r, float* w, float* g, float* m, float* v,
                                                   __nv_bfloat16* compute, int64_t begin,
                                                   int64_t end) {
  const int64_t first = begin + (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4;
  if (first + 4 <= end) {
    float4 w4 = *reinterpret_cast<float4*>(w + first), g4 = *reinterpret_cast<float4*>(g + first);
    float4 m4 = *reinterpret_cast<float4*>(m + first), v4 = *reinterpret_cast<float4*>(v + first);
    update(r, w4.x, g4.x, m4.x, v4.x);
    update(r, w4.y, g4.y, m4.y, v4.y);
    update(r, w4.z, g4.z, m4.z, v4.z);
    update(r, w4.w, g4.w, m4.w, v4.w);
    *reinterpret_cast<float4*>(w + first) = w4;
    *reinterpret_cast<float4*>(g + first) = g4;
    *reinterpret_cast<float4*>(m + first) = m4;
    *reinterpret_cast<float4*>(v + first) = v4;
    if (compute) {
      reinterpret_cast<__nv_bfloat162*>(compute + first)[0] = __floats2bfloat162_rn(w4.x, w4.y);
      reinterpret_cast<__nv_bfloat162*>(compute + first)[1] = __floats2bfloat162_rn(w4.z, w4.w);
    }
    return;
  }
  for (int64_t i = first; i < end; ++i) {
    update(r, w[i], g[i], m[i], v[i]);
    if (compute) compute[i] = __float2bfloat16_rn(w[i]);
  }
}

void launch(const AdamwParams& p, void* stream) {
  const int64_t n = p.end - p.begin;
  if (n <= 0) return;
  const Rates r{float(p.beta1),        float(p.beta2),     float(1 - p.beta1),
                float(1 - p.beta2),    float(p.eps),       float(p.grad_scale),
                float(p.decay_factor), float(p.step_size), float(p.root_correction)};
  const int64_t blocks = (n + 4 * kThreads - 1) / (4 * kThreads);
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      r, static_cast<float*>(p.master), static_cast<float*>(p.grad), static_cast<float*>(p.m),
      static_cast<float*>(p.v), reinterpret_cast<__nv_bfloat16*>(p.compute), p.begin, p.end);
}

[[maybe_unused]] const bool registered = [] {
  adamw_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
