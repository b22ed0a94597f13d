#include "modules/ops/block_linear/block_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/checks.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// [..., H width] as [H, rows, width], the same memory.
at::Tensor blocks_of(const at::Tensor& x, int64_t blocks) {
  return x.reshape({-1, blocks, x.size(-1) / blocks}).transpose(0, 1);
}

// x [H, rows, in], weight [H, in, out] -> [rows, H out]
at::Tensor product(const at::Tensor& x, const at::Tensor& weight) {
  const at::Tensor y = at::empty({x.size(1), x.size(0), weight.size(2)}, x.options());
  at::Tensor blocks = y.transpose(0, 1);
  at::bmm_out(blocks, x, weight);
  return y.flatten(1);
}

class BlockLinearFn : public torch::autograd::Function<BlockLinearFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& grad) {
    const at::Tensor blocks = blocks_of(x, weight.size(0));
    ctx->save_for_backward({blocks, weight});
    ctx->saved_data["grad"] = grad.value_or(at::Tensor());
    ctx->saved_data["shape"] = x.sizes().vec();
    auto shape = x.sizes().vec();
    shape.back() = weight.size(0) * weight.size(2);
    return product(blocks, weight).view(shape);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor dy = blocks_of(grads[0], weight.size(0)), x_across = x.transpose(1, 2);
    const at::Tensor dx =
        product(dy, weight.transpose(1, 2)).view(ctx->saved_data["shape"].toIntVector());
    at::Tensor target = ctx->saved_data["grad"].toTensor();
    if (dy.scalar_type() == target.scalar_type())
      target.baddbmm_(x_across, dy);
    else if (dy.is_cuda())
      at::baddbmm_out(target, target, x_across, dy, target.scalar_type());
    else
      target.add_(at::bmm(x_across, dy));
    return {dx, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor block_linear(const at::Tensor& x, const Parameter& weight) {
  if (weight.value.dim() != 3)
    throw Error("block_linear: {} must be [blocks, in, out]", weight.name);
  const int64_t width = weight.value.size(0) * weight.value.size(1);
  if (x.dim() < 1 || x.size(-1) != width)
    throw Error("block_linear: x has {} channels, {} takes {}", x.dim() < 1 ? 0 : x.size(-1),
                weight.name, width);
  if (x.scalar_type() != weight.value.scalar_type())
    throw Error("block_linear: x is {}, {} is {}", c10::toString(x.scalar_type()), weight.name,
                c10::toString(weight.value.scalar_type()));
  return BlockLinearFn::apply(x, weight.value, if_defined(weight.grad));
}

}  // namespace ceiling
