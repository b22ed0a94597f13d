#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/rotary/kernels.h"

namespace ceiling {

struct GpuRotaryParams {
  RotaryParams of;  // kFloat or kBFloat16
  int64_t tokens;   // B T
};

inline CudaKernel<GpuRotaryParams> rotary_forward_cuda, rotary_backward_cuda;

}  // namespace ceiling
