#pragma once
#include "modules/ops/causal_conv1d/kernels.h"
#include "modules/ops/cuda_kernel.h"

namespace ceiling {

// kFloat and kBFloat16, any width; `zeros` and `workspace` are not needed. The partial sums of the
// backward pass are one row for each kConvGpuTokens tokens of a row.
constexpr int64_t kConvGpuTokens = 256;
inline CudaKernel<CausalConv1dParams> causal_conv1d_forward_cuda, causal_conv1d_backward_cuda;

}  // namespace ceiling
