#include "modules/ops/linear/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/again.h"
#include "modules/ops/checks.h"
#include "modules/ops/linear/gemm.h"

namespace ceiling {

void accumulate_weight_grad(const at::Tensor& grad, const at::Tensor& dy, const at::Tensor& x) {
  gemm_into(grad, dy.t(), x, grad, Recurs::kYes);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

struct Make : torch::CustomClassHolder {
  explicit Make(const Recipe& recipe) : make(recipe.make) {}
  decltype(Recipe::make) make;
};

class LinearFn : public torch::autograd::Function<LinearFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& grad,
                            const std::optional<at::Tensor>& residual, const Parameter* bias,
                            const Recipe* recipe, Recurs recurs) {
    const at::Tensor rows = rows_of(x);
    auto shape = x.sizes().vec();
    shape.back() = weight.size(0);
    variable_list saved{weight};
    if (recipe) {
      saved.insert(saved.end(), recipe->inputs.begin(), recipe->inputs.end());
      ctx->saved_data["make"] = c10::IValue::make_capsule(c10::make_intrusive<Make>(*recipe));
    } else {
      saved.push_back(rows);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["grad"] = grad.value_or(at::Tensor());
    ctx->saved_data["residual"] = residual.has_value();
    ctx->saved_data["shape"] = x.sizes().vec();
    ctx->saved_data["bias grad"] = bias ? bias->grad : at::Tensor();
    at::Tensor y = bias && !residual ? at::addmm(bias->value.detach(), rows, weight.t())
                                     : gemm(rows, weight.t(),
                                            residual ? rows_of(*residual) : at::Tensor(), recurs);
    if (residual && bias) y.add_(bias->value.detach());
    return y.view(shape);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& weight = saved[0];
    const at::Tensor dy = rows_of(grads[0]).contiguous();
    const at::Tensor dx =
        gemm(dy, weight, {}, Recurs::kYes).view(ctx->saved_data["shape"].toIntVector());
    accumulate_weight_grad(ctx->saved_data["grad"].toTensor(), dy, input_rows(ctx, saved));
    at::Tensor bias_grad = ctx->saved_data["bias grad"].toTensor();
    if (bias_grad.defined()) bias_grad.add_(dy.sum(0, false, bias_grad.scalar_type()));
    return {dx,           at::Tensor(),
            at::Tensor(), ctx->saved_data["residual"].toBool() ? grads[0] : at::Tensor(),
            at::Tensor(), at::Tensor(),
            at::Tensor()};
  }

 private:
  // x as kept, or made again.
  static at::Tensor input_rows(AutogradContext* ctx, const variable_list& saved) {
    const auto made = ctx->saved_data.find("make");
    if (made == ctx->saved_data.end()) return saved[1];
    const at::NoGradGuard no_grad;
    const auto recipe = c10::static_intrusive_pointer_cast<Make>(made->second.toCapsule());
    return rows_of(recipe->make({saved.begin() + 1, saved.end()}));
  }
};

Recurs training() { return at::GradMode::is_enabled() ? Recurs::kYes : Recurs::kNo; }

void check(const at::Tensor& x, const Parameter& weight, const Parameter* bias) {
  if (weight.value.dim() != 2 || x.dim() < 1 || x.size(-1) != weight.value.size(1))
    throw Error("linear: x has {} channels, {} takes {}", x.dim() < 1 ? 0 : x.size(-1), weight.name,
                weight.value.size(-1));
  if (x.scalar_type() != weight.value.scalar_type())
    throw Error("linear: x is {}, {} is {}", c10::toString(x.scalar_type()), weight.name,
                c10::toString(weight.value.scalar_type()));
  if (bias && (bias->value.sizes() != weight.value.sizes().slice(0, 1) ||
               bias->value.scalar_type() != x.scalar_type()))
    throw Error("linear: {} must be {} [{}]", bias->name, c10::toString(x.scalar_type()),
                weight.value.size(0));
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const Parameter& weight, const Parameter* bias) {
  check(x, weight, bias);
  return LinearFn::apply(x, weight.value, if_defined(weight.grad), std::nullopt, bias, recipe_of(x),
                         training());
}

at::Tensor linear_add(const at::Tensor& x, const Parameter& weight, const at::Tensor& residual,
                      const Parameter* bias) {
  check(x, weight, bias);
  auto shape = x.sizes().vec();
  shape.back() = weight.value.size(0);
  if (residual.sizes() != at::IntArrayRef(shape) || residual.scalar_type() != x.scalar_type())
    throw Error("linear: the residual must have the shape and dtype of the product with {}",
                weight.name);
  return LinearFn::apply(x, weight.value, if_defined(weight.grad), if_defined(residual), bias,
                         recipe_of(x), training());
}

}  // namespace ceiling
