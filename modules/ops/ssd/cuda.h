#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/ssd/kernels.h"

namespace ceiling {

// kFloat and kBFloat16, any width.
inline CudaKernel<SsdParams> ssd_prepare_cuda, ssd_skip_cuda, ssd_backward_cuda;

}  // namespace ceiling
