#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/rotary/kernels.h"

namespace ceiling {

constexpr int64_t kMaxRotaryRest = 4;

// RotaryParams, with what its host arrays hold.
struct GpuRotaryParams {
  RotaryParams of;  // kFloat or kBFloat16; drest, rest_width and drest_stride unused
  int64_t tokens;   // B T
  const void* drest[kMaxRotaryRest];
  int64_t rest_width[kMaxRotaryRest], drest_stride[kMaxRotaryRest];
};

inline CudaKernel<GpuRotaryParams> rotary_forward_cuda, rotary_backward_cuda;

}  // namespace ceiling
