#include "modules/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/linear/gemm.h"
#include "modules/ops/linear/linear.h"
#include "modules/ops/linear_cross_entropy/cuda.h"
#include "modules/ops/linear_cross_entropy/kernels.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Options = LinearCrossEntropyOptions;

at::Tensor capped(const at::Tensor& logits, double cap) {
  return cap > 0 ? (logits / cap).tanh() * cap : logits;
}

struct Rows {
  at::Tensor loss, z;  // [n], wide
  at::Tensor grad;     // [n, width] of logits, times scale; undefined if not wanted
};

// `logits` is used up.
Rows cross_entropy_rows(at::Tensor logits, const at::Tensor& targets, const Options& o,
                        bool want_grad) {
  const auto wide = logits.options().dtype(wide_type(logits));
  if (logits.device().is_cpu() || logits.scalar_type() != at::kDouble) {
    Rows rows{at::empty({logits.size(0)}, wide), at::empty({logits.size(0)}, wide),
              want_grad ? logits : at::Tensor()};
    CrossEntropyParams p{.type = cpu_type(logits, "linear_cross_entropy"),
                         .width = logits.size(1),
                         .vocab_size = o.vocab_size,
                         .scale = o.scale,
                         .z_loss = o.z_loss,
                         .logit_cap = o.logit_cap,
                         .want_grad = want_grad,
                         .logits = logits.mutable_data_ptr(),
                         .targets = targets.const_data_ptr<int>(),
                         .loss = rows.loss.mutable_data_ptr(),
                         .z = rows.z.mutable_data_ptr()};
    if (logits.device().is_cpu())
      at::parallel_for(0, logits.size(0), row_grain(logits.size(1)),
                       [&](int64_t b, int64_t e) { cross_entropy(p, b, e); });
    else
      launch(cross_entropy_cuda, {p, logits.size(0)}, logits);
    return rows;
  }
  const at::Tensor counted = targets.ge(0), ids = targets.clamp_min(0).to(at::kLong).unsqueeze(1);
  const at::Tensor value = capped(logits.narrow(1, 0, o.vocab_size).to(wide.dtype()), o.logit_cap);
  const at::Tensor z = value.logsumexp(1);
  Rows rows;
  const at::Tensor none = at::zeros({}, wide);
  rows.loss = at::where(counted, z - value.gather(1, ids).squeeze(1), none);
  rows.z = at::where(counted, z, none);
  if (!want_grad) return rows;
  at::Tensor grad =
      (value - z.unsqueeze(1)).exp() * (o.scale * (1 + 2 * o.z_loss * z)).unsqueeze(1);
  grad.scatter_add_(1, ids, at::zeros_like(ids, wide).fill_(-o.scale));
  if (o.logit_cap > 0) grad = grad * (1 - (value / o.logit_cap).square());
  grad = grad * counted.unsqueeze(1);
  rows.grad = at::zeros_like(logits);
  rows.grad.narrow(1, 0, o.vocab_size).copy_(grad);
  return rows;
}

class LinearCrossEntropyFn : public torch::autograd::Function<LinearCrossEntropyFn> {
 public:
  // {loss, token losses}
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden_in,
                               const at::Tensor& weight,
                               const std::optional<at::Tensor>& weight_grad,
                               const at::Tensor& targets_in, const Options* options,
                               bool want_grad) {
    const at::Tensor hidden = hidden_in.reshape({-1, hidden_in.size(-1)}),
                     targets = targets_in.reshape({-1}).to(at::kInt).contiguous();
    const int64_t rows = hidden.size(0);
    // Small enough that a chunk's logits stay in a CPU's cache, large enough for the GEMMs.
    const int64_t chunk = options->chunk > 0         ? options->chunk
                          : hidden.device().is_cpu() ? 512
                                                     : 8192;
    const Recurs recurs = want_grad ? Recurs::kYes : Recurs::kNo;
    const at::Tensor dhidden = want_grad ? at::empty_like(hidden) : at::Tensor();
    const at::Tensor token_loss = at::empty({rows}, hidden.options().dtype(wide_type(hidden)));
    at::Tensor total = at::zeros({}, hidden.options().dtype(at::kDouble));
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t n = std::min(chunk, rows - first);
      const at::Tensor h = hidden.narrow(0, first, n);
      const Rows part = cross_entropy_rows(gemm(h, weight.t(), {}, recurs),
                                           targets.narrow(0, first, n), *options, want_grad);
      token_loss.narrow(0, first, n).copy_(part.loss);
      total = total + part.loss.to(at::kDouble).sum();
      if (options->z_loss > 0)
        total = total + options->z_loss * part.z.to(at::kDouble).square().sum();
      if (!want_grad) continue;
      gemm_into(dhidden.narrow(0, first, n), part.grad, weight, {}, recurs);
      accumulate_weight_grad(*weight_grad, part.grad, h);
    }
    if (want_grad) ctx->save_for_backward({dhidden.view(hidden_in.sizes())});
    const at::Tensor shaped = token_loss.view(targets_in.sizes());
    ctx->mark_non_differentiable({shaped});
    return {(total * options->scale).to(wide_type(hidden)), shaped};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor dhidden = ctx->get_saved_variables()[0];
    // The weight gradient is made already, for an incoming gradient of 1.
    if (grads[0].device().is_cpu())
      TORCH_CHECK(grads[0].item<double>() == 1,
                  "linear_cross_entropy ends the graph: the gradient of its loss must be 1");
    return {dhidden, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

void check(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
           const Options& options) {
  if (hidden.size(-1) != weight.size(1))
    throw Error("linear_cross_entropy: hidden has {} channels, the head {}", hidden.size(-1),
                weight.size(1));
  if (hidden.scalar_type() != weight.scalar_type())
    throw Error("linear_cross_entropy: hidden is {}, the head {}",
                c10::toString(hidden.scalar_type()), c10::toString(weight.scalar_type()));
  if (options.vocab_size < 1 || options.vocab_size > weight.size(0))
    throw Error("linear_cross_entropy: a vocabulary of {} does not fit a head of {} rows",
                options.vocab_size, weight.size(0));
  if (targets.numel() * hidden.size(-1) != hidden.numel())
    throw Error("linear_cross_entropy: {} targets for {} rows", targets.numel(),
                hidden.numel() / hidden.size(-1));
  if (targets.device().is_cpu() && targets.numel() > 0 &&
      targets.max().item<int64_t>() >= options.vocab_size)
    throw Error("linear_cross_entropy: target {} is outside the vocabulary of {}",
                targets.max().item<int64_t>(), options.vocab_size);
}

}  // namespace

LinearCrossEntropyOutput linear_cross_entropy(const at::Tensor& hidden, const Parameter& weight,
                                              const at::Tensor& targets, const Options& options) {
  check(hidden, weight.value, targets, options);
  const bool want_grad = at::GradMode::is_enabled() && weight.grad.defined();
  const auto out = LinearCrossEntropyFn::apply(hidden, weight.value, if_defined(weight.grad),
                                               targets, &options, want_grad);
  return {out[0], options.per_token ? out[1] : at::Tensor()};
}

at::Tensor logits(const at::Tensor& hidden, const Parameter& weight, int64_t vocab_size,
                  double logit_cap) {
  const at::Tensor rows = hidden.reshape({-1, hidden.size(-1)});
  auto shape = hidden.sizes().vec();
  shape.back() = vocab_size;
  const at::Tensor value =
      at::mm(rows, weight.value.narrow(0, 0, vocab_size).t()).to(wide_type(hidden));
  return capped(value, logit_cap).view(shape);
}

at::Tensor linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& weight,
                                          const at::Tensor& targets, const Options& options) {
  const at::Tensor rows = hidden.reshape({-1, hidden.size(-1)}), flat = targets.reshape({-1});
  const at::Tensor value =
      capped(at::mm(rows, weight.narrow(0, 0, options.vocab_size).t()).to(wide_type(hidden)),
             options.logit_cap);
  const at::Tensor z = value.logsumexp(1), counted = flat.ge(0);
  const at::Tensor loss = z -
                          value.gather(1, flat.clamp_min(0).to(at::kLong).unsqueeze(1)).squeeze(1) +
                          options.z_loss * z.square();
  return at::where(counted, loss, at::zeros({}, loss.options())).sum() * options.scale;
}

}  // namespace ceiling
