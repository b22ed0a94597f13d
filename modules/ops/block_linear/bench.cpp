// A gate of Griffin at 160M parameters and at 2B (RecurrentGemma: 10 heads of 256), 32,768 tokens,
// for GPUs; a small one for CPUs.
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/block_linear/block_linear.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t tokens, int64_t heads, int64_t width) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor x = at::randn({tokens, heads * width}, options).requires_grad_(),
                   dy = at::randn({tokens, heads * width}, options);
  Parameter weight;
  weight.value = at::randn({heads, width, width}, options).requires_grad_();
  weight.grad = at::zeros({heads, width, width}, options.dtype(at::kFloat));
  const double of_x = 2.0 * static_cast<double>(x.numel()),
               of_weight = 2.0 * static_cast<double>(weight.value.numel());
  BenchRow forward{.op = "block_linear",
                   .shape = fmt::format("{} x {} x {} bf16", tokens, heads, width),
                   .pass = "f",
                   .bytes = 2 * of_x + of_weight,
                   .flops = 2.0 * static_cast<double>(x.numel()) * static_cast<double>(width)};
  BenchRow both =
      forward;  // reads x, dy and the weight again, writes dx, adds to a float32 gradient
  both.pass = "f+b", both.bytes = 5 * of_x + 6 * of_weight, both.flops = 3 * forward.flops;
  report.time(forward, [&] { block_linear(x, weight); });
  report.time(both, [&] { torch::autograd::grad({block_linear(x, weight)}, {x}, {dy}); });
}

void bench_block_linear(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 4, 64);
  bench_shape(report, 32768, 12, 64);
  bench_shape(report, 32768, 10, 256);
}

const RegisterBench kBench("block_linear", bench_block_linear);

}  // namespace
}  // namespace ceiling
