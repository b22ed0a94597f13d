#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/gated_rms_norm/kernels.h"

namespace ceiling {

// kFloat and kBFloat16, any width. The backward pass also adds the weight gradient into dweight.
inline CudaKernel<GatedRmsNormParams> gated_rms_norm_forward_cuda, gated_rms_norm_backward_cuda;

}  // namespace ceiling
