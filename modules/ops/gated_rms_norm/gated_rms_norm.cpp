#include "modules/ops/gated_rms_norm/gated_rms_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/again.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/gated_rms_norm/cuda.h"
#include "modules/ops/weight_partials.h"

namespace ceiling {

namespace {

// Unit stride within a row, one stride between rows. Copies only if it must.
at::Tensor gate_rows(const at::Tensor& gate) {
  const bool regular =
      gate.stride(2) == 1 && (gate.size(0) == 1 || gate.stride(0) == gate.stride(1) * gate.size(1));
  return regular ? gate : gate.contiguous();
}

GatedRmsNormParams params_of(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& weight,
                             int64_t groups, double eps) {
  GatedRmsNormParams p{};
  p.type = cpu_type(x, "gated_rms_norm"), p.eps = eps;
  p.rows = x.size(0) * x.size(1), p.groups = groups, p.dim = x.size(2) / groups;
  p.x = x.const_data_ptr(), p.gate = gate.const_data_ptr();
  p.gate_stride = gate.size(1) == 1 ? gate.stride(0) : gate.stride(1);
  p.weight = weight.const_data_ptr();
  return p;
}

class GatedRmsNormFn : public torch::autograd::Function<GatedRmsNormFn> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_in,
                            const at::Tensor& gate_in, const at::Tensor& weight,
                            const std::optional<at::Tensor>& weight_grad, int64_t groups,
                            double eps) {
    const at::Tensor x = x_in.contiguous(), gate = gate_rows(gate_in), y = at::empty_like(x);
    GatedRmsNormParams p = params_of(x, gate, weight, groups, eps);
    p.y = y.mutable_data_ptr();
    if (x.device().is_cpu())
      at::parallel_for(0, p.rows, row_grain(x.size(2)),
                       [&](int64_t b, int64_t e) { gated_rms_norm_forward(p, b, e); });
    else
      launch(gated_rms_norm_forward_cuda, p, x);
    ctx->save_for_backward({x, gate, weight});
    ctx->saved_data["grad"] = weight_grad.value_or(at::Tensor());
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["eps"] = eps;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &gate = saved[1], &weight = saved[2];
    GatedRmsNormParams p = params_of(x, gate, weight, ctx->saved_data["groups"].toInt(),
                                     ctx->saved_data["eps"].toDouble());
    const at::Tensor dy = grads[0].contiguous(), dx = at::empty_like(x),
                     dgate = at::empty(gate.sizes(), x.options());
    p.partials = weight_partials(x.device(), p.rows, kGatedNormBlock);
    const at::Tensor partial = at::empty({p.partials, x.size(2)}, x.options().dtype(wide_type(x)));
    p.dy = dy.const_data_ptr(), p.dx = dx.mutable_data_ptr(), p.dgate = dgate.mutable_data_ptr();
    p.dweight_partial = partial.mutable_data_ptr();
    const at::Tensor dweight = ctx->saved_data["grad"].toTensor();
    if (x.device().is_cpu()) {
      at::parallel_for(0, p.partials, 1,
                       [&](int64_t b, int64_t e) { gated_rms_norm_backward(p, b, e); });
      dweight.add_(partial.sum(0));
    } else {
      p.dweight = dweight.mutable_data_ptr<float>();
      launch(gated_rms_norm_backward_cuda, p, x);
    }
    const at::Tensor none;
    return {dx, dgate, none, none, none, none};
  }
};

}  // namespace

at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& gate, const Parameter& weight,
                          int64_t groups, double eps) {
  if (x.dim() != 3 || gate.sizes() != x.sizes())
    throw Error("gated_rms_norm: x and the gate must be [B, T, E], of equal sizes");
  if (weight.value.dim() != 1 || weight.value.size(0) != x.size(2))
    throw Error("gated_rms_norm: x has {} channels, the weight {}", x.size(2),
                weight.value.numel());
  if (groups < 1 || x.size(2) % groups != 0)
    throw Error("gated_rms_norm: {} groups do not divide {} channels", groups, x.size(2));
  for (const at::Tensor& other : {gate, weight.value}) {
    if (other.scalar_type() != x.scalar_type())
      throw Error("gated_rms_norm: x, gate and weight differ in dtype");
    if (other.device() != x.device())
      throw Error("gated_rms_norm: x, gate and weight are on different devices");
  }
  if (!x.device().is_cpu() && x.scalar_type() == at::kDouble)
    return gated_rms_norm_reference(x, gate, use(weight), groups, eps);
  const at::Tensor y =
      GatedRmsNormFn::apply(x, gate, weight.value, if_defined(weight.grad), groups, eps);
  add_recipe(y, {{x, gate}, [&weight, groups, eps](const std::vector<at::Tensor>& in) {
                   return gated_rms_norm(in[0], in[1], weight, groups, eps);
                 }});
  return y;
}

at::Tensor gated_rms_norm_reference(const at::Tensor& x, const at::Tensor& gate,
                                    const at::Tensor& weight, int64_t groups, double eps) {
  const at::ScalarType wide = wide_type(x);
  const at::Tensor s =
      (x.to(wide) * at::silu(gate.to(wide))).unflatten(-1, {groups, x.size(-1) / groups});
  const at::Tensor n = s * (s.square().mean(-1, true) + eps).rsqrt();
  return (n.flatten(-2) * weight).to(x.scalar_type());
}

}  // namespace ceiling
