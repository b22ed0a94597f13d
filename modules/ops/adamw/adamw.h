// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over flat buffers, in one pass.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace ceiling {

// Elements [begin, end) of the flat buffers that are treated alike.
struct AdamwGroup {
  int64_t begin, end;
  double weight_decay, lr_factor;
};

struct AdamwStep {
  double lr, beta1, beta2, eps;
  int64_t step;       // t, from 1
  double grad_scale;  // multiplies the gradient: clipping
};

// With g = grad_scale * grad:  m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2,
//   w <- w - lr' wd w - lr' (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),  lr' = lr * lr_factor
// as torch.optim.AdamW. Also writes `compute` (bfloat16 copy of master; may be undefined) and sets
// grad to zero. master, grad, m, v [n] float32 or float64 (CPU). Moves 32 bytes per element (34
// with a copy). Elements in no group stay.
void adamw(const at::Tensor& master, const at::Tensor& grad, const at::Tensor& m,
           const at::Tensor& v, const at::Tensor& compute, const std::vector<AdamwGroup>& groups,
           const AdamwStep& step);

}  // namespace ceiling
