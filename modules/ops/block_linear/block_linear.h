// Matrix product with a block-diagonal parameter: the gates of the RG-LRU (De et al., arXiv
// 2402.19427, appendix A).
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"

namespace ceiling {

// x [..., H in], weight [H, in, out], input index first -> [..., H out]: block h of the channels
// times matrix h. Adds the weight's gradient to weight.grad. Saves x. Error if shapes or dtypes do
// not fit.
at::Tensor block_linear(const at::Tensor& x, const Parameter& weight);

}  // namespace ceiling
