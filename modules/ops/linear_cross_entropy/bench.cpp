// The heads of a 160M and a 1.3B model, 32,768 tokens, for GPUs; a small one for CPUs.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/linear_cross_entropy/linear_cross_entropy.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t tokens, int64_t dim, int64_t vocab) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor hidden = at::randn({tokens, dim}, options).requires_grad_();
  const at::Tensor targets = at::randint(vocab, {tokens}, options.dtype(at::kInt));
  Parameter weight;
  weight.value = (at::randn({vocab, dim}, options) * 0.02).requires_grad_();
  weight.grad = at::zeros({vocab, dim}, options.dtype(at::kFloat));
  const auto product =
      2.0 * static_cast<double>(tokens) * static_cast<double>(dim) * static_cast<double>(vocab);
  const double of_hidden = 2.0 * static_cast<double>(hidden.numel()),
               of_weight = 2.0 * static_cast<double>(weight.value.numel());
  BenchRow forward{.op = "linear_cross_entropy",
                   .shape = fmt::format("{} x {} V {} bf16", tokens, dim, vocab),
                   .pass = "f",
                   .bytes = of_hidden + of_weight,
                   .flops = product};
  BenchRow both = forward;  // also writes d hidden, and adds to the weight's float32 gradient
  both.pass = "f+b", both.bytes = 2 * of_hidden + 5 * of_weight, both.flops = 3 * product;
  const auto loss = [&] {
    return linear_cross_entropy(hidden, weight, targets,
                                {.vocab_size = vocab, .scale = 1 / static_cast<double>(tokens)})
        .loss;
  };
  report.time(forward, [&] {
    const at::NoGradGuard no_grad;
    loss();
  });
  report.time(both, [&] { torch::autograd::grad({loss()}, {hidden}); });
}

void bench_linear_cross_entropy(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 256, 8192);
  bench_shape(report, 32768, 768, 50304);
  bench_shape(report, 32768, 2048, 50304);
}

const RegisterBench kBench("linear_cross_entropy", bench_linear_cross_entropy);

}  // namespace
}  // namespace ceiling
