#include "modules/layers/recompute.h"

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace ceiling {

namespace {
struct Rerun : torch::CustomClassHolder {
  Rerun(Block& block, MixContext context) : block(block), context(std::move(context)) {}
  Block& block;
  MixContext context;
};

class RecomputeFunction : public torch::autograd::Function<RecomputeFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            Block* block, const MixContext* context) {
    ctx->save_for_backward({x});
    ctx->saved_data["rerun"] =
        c10::IValue::make_capsule(c10::make_intrusive<Rerun>(*block, *context));
    return block->forward(x, *context, nullptr);  // autograd is off inside a Function's forward
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto rerun =
        c10::static_intrusive_pointer_cast<Rerun>(ctx->saved_data["rerun"].toCapsule());
    const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_();
    at::Tensor y;
    {
      at::AutoGradMode on(true);
      y = rerun->block.forward(x, rerun->context, nullptr);
    }
    // Parameters add into their own gradient buffers on the way.
    torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};
}  // namespace

at::Tensor recomputed(Block& block, const at::Tensor& x, const MixContext& context) {
  return RecomputeFunction::apply(x, &block, &context);
}

}  // namespace ceiling
