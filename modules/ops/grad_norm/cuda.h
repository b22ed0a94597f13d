#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/grad_norm/kernels.h"

namespace ceiling {

inline CudaKernel<SquaredNormParams> squared_norm_cuda;  // all blocks; provided by kernel_cuda.cu

}  // namespace ceiling
