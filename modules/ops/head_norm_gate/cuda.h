#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/head_norm_gate/kernels.h"

namespace ceiling {

// kFloat and kBFloat16, any width. The backward pass also adds the weight gradient into dweight.
inline CudaKernel<HeadNormGateParams> head_norm_gate_forward_cuda, head_norm_gate_backward_cuda;

}  // namespace ceiling
