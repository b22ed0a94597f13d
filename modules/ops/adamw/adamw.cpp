#include "modules/ops/adamw/adamw.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "modules/ops/adamw/cuda.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"

namespace ceiling {

void adamw(const at::Tensor& master, const at::Tensor& grad, const at::Tensor& m,
           const at::Tensor& v, const at::Tensor& compute, const std::vector<AdamwGroup>& groups,
           const AdamwStep& step) {
  for (const at::Tensor* buffer : {&master, &grad, &m, &v})
    if (buffer->numel() != master.numel() || buffer->scalar_type() != master.scalar_type() ||
        !buffer->is_contiguous())
      throw Error("adamw: master, grad, m and v must be contiguous, of one dtype and length");
  if (!master.device().is_cpu() && master.scalar_type() != at::kFloat)
    throw Error("adamw: on a GPU the buffers must be float32");
  if (compute.defined() &&
      (compute.scalar_type() != at::kBFloat16 || compute.numel() != master.numel()))
    throw Error("adamw: the compute copy must be bfloat16 and as long as the master");
  const auto t = static_cast<double>(step.step);
  for (const AdamwGroup& group : groups) {
    const double lr = step.lr * group.lr_factor;
    AdamwParams p{.type = cpu_type(master, "adamw"),
                  .master = master.mutable_data_ptr(),
                  .grad = grad.mutable_data_ptr(),
                  .m = m.mutable_data_ptr(),
                  .v = v.mutable_data_ptr(),
                  .compute = compute.defined()
                                 ? static_cast<unsigned short*>(compute.mutable_data_ptr())
                                 : nullptr,
                  .decay_factor = 1 - lr * group.weight_decay,
                  .step_size = lr / (1 - std::pow(step.beta1, t)),
                  .root_correction = 1 / std::sqrt(1 - std::pow(step.beta2, t)),
                  .beta1 = step.beta1,
                  .beta2 = step.beta2,
                  .eps = step.eps,
                  .grad_scale = step.grad_scale,
                  .begin = group.begin,
                  .end = group.end};
    if (master.device().is_cpu())
      at::parallel_for(group.begin, group.end, 1 << 14,
                       [&](int64_t b, int64_t e) { adamw_update(p, b, e); });
    else
      launch(adamw_cuda, p, master);
  }
}

}  // namespace ceiling
