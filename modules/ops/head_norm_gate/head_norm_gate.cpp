#include "modules/ops/head_norm_gate/head_norm_gate.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/activation_reference.h"
#include "modules/ops/again.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/head_norm_gate/cuda.h"
#include "modules/ops/weight_partials.h"

namespace ceiling {

namespace {

// Rows of the gate as the kernels want them: unit stride within, one stride between rows. Copies
// only if it must.
at::Tensor gate_rows(const at::Tensor& gate) {
  const bool regular =
      gate.stride(2) == 1 && (gate.size(0) == 1 || gate.stride(0) == gate.stride(1) * gate.size(1));
  return regular ? gate : gate.contiguous();
}

HeadNormGateParams params_of(const at::Tensor& o, const at::Tensor& gate, const at::Tensor& weight,
                             double eps, Activation activation) {
  HeadNormGateParams p{};
  p.type = cpu_type(o, "head_norm_gate"), p.activation = activation, p.eps = eps;
  p.rows = o.size(0) * o.size(1), p.heads = o.size(2), p.dim = o.size(3);
  p.o = o.const_data_ptr(), p.gate = gate.const_data_ptr(), p.gate_stride = gate.stride(1);
  if (gate.size(1) == 1) p.gate_stride = gate.stride(0);
  if (weight.defined()) p.weight = weight.const_data_ptr();
  return p;
}

class HeadNormGateFn : public torch::autograd::Function<HeadNormGateFn> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& o_in,
                            const at::Tensor& gate_in,
                            const std::optional<at::Tensor>& maybe_weight,
                            const std::optional<at::Tensor>& weight_grad, double eps,
                            Activation activation, const GradientPlace& gate_place) {
    const at::Tensor weight = maybe_weight.value_or(at::Tensor());
    const at::Tensor o = o_in.contiguous(), gate = gate_rows(gate_in);
    const at::Tensor y = at::empty({o.size(0), o.size(1), o.size(2) * o.size(3)}, o.options());
    HeadNormGateParams p = params_of(o, gate, weight, eps, activation);
    p.y = y.mutable_data_ptr();
    if (o.device().is_cpu())
      at::parallel_for(0, p.rows, row_grain(p.heads * p.dim),
                       [&](int64_t b, int64_t e) { head_norm_gate_forward(p, b, e); });
    else
      launch(head_norm_gate_forward_cuda, p, o);
    ctx->save_for_backward({o, gate, weight});
    ctx->saved_data["grad"] = weight_grad.value_or(at::Tensor());
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["activation"] = static_cast<int64_t>(activation);
    ctx->saved_data["place"] = kept(gate_place);
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &o = saved[0], &gate = saved[1], &weight = saved[2];
    HeadNormGateParams p =
        params_of(o, gate, weight, ctx->saved_data["eps"].toDouble(),
                  static_cast<Activation>(ctx->saved_data["activation"].toInt()));
    const at::Tensor dy = grads[0].contiguous(), d_o = at::empty_like(o);
    at::Tensor dgate = place_of(ctx->saved_data["place"]).offer(o.options());
    p.dgate_as_gate = dgate.defined() && dgate.strides() == gate.strides();
    if (!p.dgate_as_gate) dgate = at::empty(gate.sizes(), o.options());
    p.partials = weight_partials(o.device(), p.rows, kHeadNormBlock);
    p.dy = dy.const_data_ptr(), p.d_o = d_o.mutable_data_ptr(), p.dgate = dgate.mutable_data_ptr();
    const bool cpu = o.device().is_cpu();
    at::Tensor partial, dweight;
    if (weight.defined()) {
      partial = at::empty({p.partials, p.dim}, o.options().dtype(wide_type(o)));
      dweight = ctx->saved_data["grad"].toTensor();
      p.dweight_partial = partial.mutable_data_ptr();
      if (!cpu) p.dweight = dweight.mutable_data_ptr<float>();
    }
    if (cpu) {
      at::parallel_for(0, p.partials, 1,
                       [&](int64_t b, int64_t e) { head_norm_gate_backward(p, b, e); });
      if (weight.defined()) dweight.add_(partial.sum(0));
    } else {
      launch(head_norm_gate_backward_cuda, p, o);
    }
    return {d_o, dgate, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor head_norm_gate(const at::Tensor& o, const at::Tensor& gate, const Parameter* weight,
                          double eps, Activation activation, const GradientPlace& gate_place) {
  if (o.dim() != 4 || gate.dim() != 3 || gate.size(0) != o.size(0) || gate.size(1) != o.size(1) ||
      gate.size(2) != o.size(2) * o.size(3))
    throw Error("head_norm_gate: o must be [B, T, H, V] and gate [B, T, H V], of equal sizes");
  if (weight && weight->value.numel() != o.size(3))
    throw Error("head_norm_gate: the weight has {} channels, a head {}", weight->value.numel(),
                o.size(3));
  if (gate.scalar_type() != o.scalar_type())
    throw Error("head_norm_gate: o is {}, the gate {}", c10::toString(o.scalar_type()),
                c10::toString(gate.scalar_type()));
  if (weight && weight->value.scalar_type() != o.scalar_type())
    throw Error("head_norm_gate: o is {}, the weight {}", c10::toString(o.scalar_type()),
                c10::toString(weight->value.scalar_type()));
  if (o.device() != gate.device() || (weight && weight->value.device() != o.device()))
    throw Error("head_norm_gate: o, gate and weight must be on one device");
  if (!o.device().is_cpu() && o.scalar_type() == at::kDouble)
    return head_norm_gate_reference(o, gate, weight ? use(*weight) : at::Tensor(), eps, activation);
  const at::Tensor y = HeadNormGateFn::apply(
      o, gate, weight ? if_defined(weight->value) : std::nullopt,
      weight ? if_defined(weight->grad) : std::nullopt, eps, activation, gate_place);
  add_recipe(y, {{o, gate}, [weight, eps, activation](const std::vector<at::Tensor>& in) {
                   return head_norm_gate(in[0], in[1], weight, eps, activation);
                 }});
  return y;
}

at::Tensor head_norm_gate_reference(const at::Tensor& o, const at::Tensor& gate,
                                    const at::Tensor& weight, double eps, Activation activation) {
  const at::Tensor wide = o.to(wide_type(o));
  at::Tensor n = wide * (wide.square().mean(-1, true) + eps).rsqrt();
  if (weight.defined()) n = n * weight;
  return (n.flatten(2) * activate(gate.to(wide_type(o)), activation)).to(o.scalar_type());
}

}  // namespace ceiling
