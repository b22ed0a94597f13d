#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/gated/kernels.h"

namespace ceiling {

struct GpuGatedParams {
  GatedParams of;  // kFloat or kBFloat16
  int64_t rows;
};

inline CudaKernel<GpuGatedParams> gated_forward_cuda, gated_backward_cuda;

}  // namespace ceiling
