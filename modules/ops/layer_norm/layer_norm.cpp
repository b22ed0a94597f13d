#include "modules/ops/layer_norm/layer_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/again.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/layer_norm/cuda.h"
#include "modules/ops/weight_partials.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class LayerNormFn : public torch::autograd::Function<LayerNormFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias,
                            const std::optional<at::Tensor>& weight_grad,
                            const std::optional<at::Tensor>& bias_grad, double eps) {
    const at::Tensor x = x_in.contiguous(), y = at::empty_like(x);
    const int64_t dim = x.size(-1), rows = x.numel() / std::max<int64_t>(dim, 1);
    const auto wide = x.options().dtype(wide_type(x));
    const at::Tensor mean = at::empty({rows}, wide), rstd = at::empty({rows}, wide);
    LayerNormParams p{};
    p.type = cpu_type(x, "layer_norm"), p.rows = rows, p.dim = dim, p.eps = eps;
    p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr();
    p.bias = bias ? bias->const_data_ptr() : nullptr;
    p.y = y.mutable_data_ptr(), p.mean = mean.mutable_data_ptr(), p.rstd = rstd.mutable_data_ptr();
    if (x.device().is_cpu())
      at::parallel_for(0, rows, row_grain(dim),
                       [&](int64_t b, int64_t e) { layer_norm_forward(p, b, e); });
    else
      launch(layer_norm_forward_cuda, p, x);
    ctx->save_for_backward({x, mean, rstd, weight});
    ctx->saved_data["weight grad"] = weight_grad.value_or(at::Tensor());
    ctx->saved_data["bias grad"] = bias_grad.value_or(at::Tensor());
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &mean = saved[1], &rstd = saved[2], &weight = saved[3];
    const at::Tensor dy = grads[0].contiguous(), dx = at::empty_like(x);
    const at::Tensor dweight = ctx->saved_data["weight grad"].toTensor(),
                     dbias = ctx->saved_data["bias grad"].toTensor();
    LayerNormParams p{};
    p.type = cpu_type(x, "layer_norm"), p.rows = rstd.numel(), p.dim = x.size(-1);
    p.partials = weight_partials(x.device(), p.rows, kLayerNormBlock);
    const at::Tensor partial =
        at::empty({dbias.defined() ? 2 : 1, p.partials, p.dim}, rstd.options());
    p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr();
    p.mean = mean.mutable_data_ptr(), p.rstd = rstd.mutable_data_ptr();
    p.dy = dy.const_data_ptr(), p.dx = dx.mutable_data_ptr();
    p.dweight_partial = partial[0].mutable_data_ptr();
    if (dbias.defined()) p.dbias_partial = partial[1].mutable_data_ptr();
    if (x.device().is_cpu()) {
      at::parallel_for(0, p.partials, 1,
                       [&](int64_t b, int64_t e) { layer_norm_backward(p, b, e); });
      dweight.add_(partial[0].sum(0));
      if (dbias.defined()) dbias.add_(partial[1].sum(0));
    } else {
      p.dweight = dweight.mutable_data_ptr<float>();
      if (dbias.defined()) p.dbias = dbias.mutable_data_ptr<float>();
      launch(layer_norm_backward_cuda, p, x);
    }
    return {dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

void check(const at::Tensor& x, const at::Tensor& weight, const char* name) {
  if (x.dim() < 1 || weight.dim() != 1 || x.size(-1) != weight.size(0))
    throw Error("layer_norm: x has {} channels, the {} {}", x.dim() < 1 ? 0 : x.size(-1), name,
                weight.numel());
  if (x.scalar_type() != weight.scalar_type())
    throw Error("layer_norm: x is {}, the {} {}", c10::toString(x.scalar_type()), name,
                c10::toString(weight.scalar_type()));
  if (x.device() != weight.device())
    throw Error("layer_norm: x is on {}, the {} on {}", x.device().str(), name,
                weight.device().str());
}

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const Parameter& weight, const Parameter* bias,
                      double eps) {
  check(x, weight.value, "weight");
  if (bias) check(x, bias->value, "bias");
  // float64 on a GPU is there to test other kernels against.
  if (!x.device().is_cpu() && x.scalar_type() == at::kDouble)
    return layer_norm_reference(x, use(weight), bias ? use(*bias) : at::Tensor(), eps);
  const at::Tensor y = LayerNormFn::apply(
      x, weight.value, bias ? if_defined(bias->value) : std::nullopt, if_defined(weight.grad),
      bias ? if_defined(bias->grad) : std::nullopt, eps);
  add_recipe(y, {{x}, [&weight, bias, eps](const std::vector<at::Tensor>& in) {
                   return layer_norm(in[0], weight, bias, eps);
                 }});
  return y;
}

at::Tensor layer_norm_reference(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& bias, double eps) {
  const at::Tensor wide = x.to(wide_type(x)), centred = wide - wide.mean(-1, true);
  const at::Tensor y = centred * (centred.square().mean(-1, true) + eps).rsqrt() * weight;
  return (bias.defined() ? y + bias : y).to(x.scalar_type());
}

}  // namespace ceiling
