#include "modules/ops/gated/gated.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/activation_reference.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/gated/cuda.h"

namespace ceiling {

namespace {

class GatedFn : public torch::autograd::Function<GatedFn> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& gate_up_in,
                            Activation activation) {
    const at::Tensor gate_up = gate_up_in.contiguous();
    auto shape = gate_up.sizes().vec();
    shape.back() /= 2;
    const at::Tensor y = at::empty(shape, gate_up.options());
    GatedParams p{};
    p.type = cpu_type(gate_up, "gated"), p.activation = activation, p.width = shape.back();
    p.gate_up = gate_up.const_data_ptr(), p.y = y.mutable_data_ptr();
    if (gate_up.device().is_cpu())
      at::parallel_for(0, y.numel() / p.width, row_grain(p.width),
                       [&](int64_t b, int64_t e) { gated_forward(p, b, e); });
    else
      launch(gated_forward_cuda, {p, y.numel() / p.width}, gate_up);
    ctx->save_for_backward({gate_up});
    ctx->saved_data["activation"] = static_cast<int64_t>(activation);
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0];
    const at::Tensor dy = grads[0].contiguous(), dgate_up = at::empty_like(gate_up);
    GatedParams p{};
    p.type = cpu_type(gate_up, "gated"),
    p.activation = static_cast<Activation>(ctx->saved_data["activation"].toInt());
    p.width = gate_up.size(-1) / 2;
    p.gate_up = gate_up.const_data_ptr(), p.dy = dy.const_data_ptr(),
    p.dgate_up = dgate_up.mutable_data_ptr();
    if (gate_up.device().is_cpu())
      at::parallel_for(0, dy.numel() / p.width, row_grain(p.width),
                       [&](int64_t b, int64_t e) { gated_backward(p, b, e); });
    else
      launch(gated_backward_cuda, {p, dy.numel() / p.width}, gate_up);
    return {dgate_up, at::Tensor()};
  }
};

}  // namespace

at::Tensor gated(const at::Tensor& gate_up, Activation activation) {
  if (gate_up.dim() < 1 || gate_up.size(-1) % 2 != 0 || gate_up.numel() == 0)
    throw Error(
        "gated: the last dimension must hold gate and up, an even number of channels, got {}",
        gate_up.dim() < 1 ? 0 : gate_up.size(-1));
  const bool has_kernel = gate_up.device().is_cpu() || gate_up.scalar_type() != at::kDouble;
  return has_kernel ? GatedFn::apply(gate_up, activation) : gated_reference(gate_up, activation);
}

at::Tensor gated_reference(const at::Tensor& gate_up, Activation activation) {
  const auto halves = gate_up.to(wide_type(gate_up)).chunk(2, -1);
  return (activate(halves[0], activation) * halves[1]).to(gate_up.scalar_type());
}

}  // namespace ceiling
