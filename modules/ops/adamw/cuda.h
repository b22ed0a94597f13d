#pragma once
#include "modules/ops/adamw/kernels.h"
#include "modules/ops/cuda_kernel.h"

namespace ceiling {

inline CudaKernel<AdamwParams> adamw_cuda;  // elements [begin, end); provided by kernel_cuda.cu

}  // namespace ceiling
