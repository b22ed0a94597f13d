#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/layer_norm/kernels.h"

namespace ceiling {

// kFloat and kBFloat16, any width. The backward pass also adds the gradients into dweight and
// dbias.
inline CudaKernel<LayerNormParams> layer_norm_forward_cuda, layer_norm_backward_cuda;

}  // namespace ceiling
