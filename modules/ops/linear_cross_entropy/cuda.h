#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/linear_cross_entropy/kernels.h"

namespace ceiling {

struct GpuCrossEntropyParams {
  CrossEntropyParams rows_of;  // kFloat or kBFloat16
  int64_t rows;
};

inline CudaKernel<GpuCrossEntropyParams> cross_entropy_cuda;

}  // namespace ceiling
