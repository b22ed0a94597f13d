#include "modules/ops/rms_norm/rms_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/again.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/rms_norm/cuda.h"
#include "modules/ops/weight_partials.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Without a residual: {y, x}; with one: {y, sum}.
class RmsNormFn : public torch::autograd::Function<RmsNormFn> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_in,
                               const std::optional<at::Tensor>& residual_in,
                               const at::Tensor& weight,
                               const std::optional<at::Tensor>& weight_grad, double eps) {
    const at::Tensor x = x_in.contiguous();
    const at::Tensor residual = residual_in ? residual_in->contiguous() : at::Tensor();
    const int64_t dim = x.size(-1), rows = x.numel() / std::max<int64_t>(dim, 1);
    const at::Tensor y = at::empty_like(x),
                     rstd = at::empty({rows}, x.options().dtype(wide_type(x)));
    const at::Tensor sum = residual.defined() ? at::empty_like(x) : at::Tensor();
    RmsNormParams p{};
    p.type = cpu_type(x, "rms_norm"), p.rows = rows, p.dim = dim, p.eps = eps;
    p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr();
    p.y = y.mutable_data_ptr(), p.rstd = rstd.mutable_data_ptr();
    if (residual.defined()) p.residual = residual.const_data_ptr(), p.sum = sum.mutable_data_ptr();
    if (x.device().is_cpu())
      at::parallel_for(0, rows, row_grain(dim),
                       [&](int64_t b, int64_t e) { rms_norm_forward(p, b, e); });
    else
      launch(rms_norm_forward_cuda, p, x);
    ctx->save_for_backward({residual.defined() ? sum : x, rstd, weight});
    ctx->saved_data["grad"] = weight_grad.value_or(at::Tensor());
    ctx->saved_data["two"] = residual.defined();
    ctx->set_materialize_grads(false);
    return {y, residual.defined() ? sum : x.detach()};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &rstd = saved[1], &weight = saved[2];
    const bool two = ctx->saved_data["two"].toBool();
    const at::Tensor dsum = grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    if (!grads[0].defined())
      return {dsum, two ? dsum : at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    const at::Tensor dy = grads[0].contiguous(), dx = at::empty_like(x);
    const int64_t dim = x.size(-1), rows = rstd.numel();
    RmsNormParams p{};
    p.partials = weight_partials(x.device(), rows, kRmsNormBlock);
    const at::Tensor partial = at::empty({p.partials, dim}, rstd.options());
    const at::Tensor dweight = ctx->saved_data["grad"].toTensor();
    p.type = cpu_type(x, "rms_norm"), p.rows = rows, p.dim = dim;
    p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr(), p.rstd = rstd.mutable_data_ptr();
    p.dy = dy.const_data_ptr(), p.dx = dx.mutable_data_ptr(),
    p.dweight_partial = partial.mutable_data_ptr();
    if (dsum.defined()) p.dsum = dsum.const_data_ptr();
    if (x.device().is_cpu()) {
      at::parallel_for(0, p.partials, 1, [&](int64_t b, int64_t e) { rms_norm_backward(p, b, e); });
      dweight.add_(partial.sum(0));
    } else {
      p.dweight = dweight.mutable_data_ptr<float>();
      launch(rms_norm_backward_cuda, p, x);
    }
    return {dx, two ? dx : at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

void check(const at::Tensor& x, const at::Tensor& weight) {
  if (x.dim() < 1 || weight.dim() != 1 || x.size(-1) != weight.size(0))
    throw Error("rms_norm: x has {} channels, the weight {}", x.dim() < 1 ? 0 : x.size(-1),
                weight.numel());
  if (x.scalar_type() != weight.scalar_type())
    throw Error("rms_norm: x is {}, the weight {}", c10::toString(x.scalar_type()),
                c10::toString(weight.scalar_type()));
  if (x.device() != weight.device())
    throw Error("rms_norm: x is on {}, the weight on {}", x.device().str(), weight.device().str());
}

void add_norm_recipe(const at::Tensor& y, const at::Tensor& x, const Parameter& weight,
                     double eps) {
  add_recipe(y, {{x}, [&weight, eps](const std::vector<at::Tensor>& in) {
                   return rms_norm(in[0], weight, eps);
                 }});
}

// All but float64 on a GPU, which is there to test other kernels against.
bool has_kernel(const at::Tensor& x) {
  return x.device().is_cpu() || x.scalar_type() != at::kDouble;
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const Parameter& weight, double eps) {
  return rms_norm_beside(x, weight, eps).y;
}

AddRmsNormOutput rms_norm_beside(const at::Tensor& x, const Parameter& weight, double eps) {
  check(x, weight.value);
  if (!has_kernel(x)) return {rms_norm_reference(x, use(weight), eps), x};
  const variable_list out =
      RmsNormFn::apply(x, std::nullopt, weight.value, if_defined(weight.grad), eps);
  add_norm_recipe(out[0], x, weight, eps);
  return {out[0], out[1]};
}

AddRmsNormOutput add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                              const Parameter& weight, double eps) {
  check(x, weight.value);
  if (x.sizes() != residual.sizes() || x.scalar_type() != residual.scalar_type() ||
      x.device() != residual.device())
    throw Error("add_rms_norm: x and residual differ in shape, dtype or device");
  if (!has_kernel(x)) {
    const at::Tensor sum = x + residual;
    return {rms_norm_reference(sum, use(weight), eps), sum};
  }
  const variable_list out =
      RmsNormFn::apply(x, if_defined(residual), weight.value, if_defined(weight.grad), eps);
  add_norm_recipe(out[0], out[1], weight, eps);
  return {out[0], out[1]};
}

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(wide_type(x));
  return (wide * (wide.square().mean(-1, true) + eps).rsqrt() * weight).to(x.scalar_type());
}

}  // namespace ceiling
