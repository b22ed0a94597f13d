#include "modules/ops/embedding/embedding.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/embedding/cuda.h"

namespace ceiling {

namespace {

class EmbeddingFn : public torch::autograd::Function<EmbeddingFn> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& weight,
                            const std::optional<at::Tensor>& grad, const at::Tensor& tokens,
                            double scale) {
    ctx->saved_data["grad"] = grad.value_or(at::Tensor());
    ctx->saved_data["tokens"] = tokens;
    ctx->saved_data["scale"] = scale;
    const at::Tensor y = at::embedding(weight, tokens);
    return scale == 1 ? y : y * scale;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor dy = grads[0].contiguous(), tokens = ctx->saved_data["tokens"].toTensor();
    at::Tensor grad = ctx->saved_data["grad"].toTensor();
    const double scale = ctx->saved_data["scale"].toDouble();
    const at::Tensor ids = tokens.to(at::kInt).reshape({-1}).contiguous();
    const auto params = [&](const at::Tensor& of) {
      return EmbeddingBackwardParams{.type = cpu_type(dy, "embedding"),
                                     .n_tokens = of.numel(),
                                     .dim = dy.size(-1),
                                     .scale = scale,
                                     .tokens = of.const_data_ptr<int>(),
                                     .dy = dy.const_data_ptr(),
                                     .grad = grad.mutable_data_ptr()};
    };
    if (dy.device().is_cpu()) {
      const EmbeddingBackwardParams p = params(ids);
      at::parallel_for(0, p.dim, 64, [&](int64_t b, int64_t e) { embedding_backward(p, b, e); });
    } else if (dy.scalar_type() != at::kDouble) {
      const auto [sorted, order] = at::sort(ids, /*stable=*/true, /*dim=*/0, /*descending=*/false);
      const int64_t runs = (ids.numel() + kEmbeddingRun - 1) / kEmbeddingRun;
      const at::Tensor partial = at::empty({runs, 2, dy.size(-1)}, grad.options());
      launch(embedding_backward_cuda,
             {params(sorted), order.const_data_ptr<int64_t>(), partial.mutable_data_ptr<float>()},
             dy);
    } else {
      grad.add_(at::embedding_dense_backward(dy, tokens, grad.size(0), -1, false), scale);
    }
    return {at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor embedding(const at::Tensor& tokens, const Parameter& weight, double scale) {
  if (tokens.device().is_cpu() && tokens.numel() > 0) {
    const int64_t low = tokens.min().item<int64_t>(), high = tokens.max().item<int64_t>();
    if (low < 0 || high >= weight.value.size(0))
      throw Error("embedding: token {} is outside the vocabulary of {}", low < 0 ? low : high,
                  weight.value.size(0));
  }
  return EmbeddingFn::apply(weight.value, if_defined(weight.grad), tokens, scale);
}

}  // namespace ceiling
