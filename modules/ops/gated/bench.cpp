// 32,768 rows at the feed-forward widths of a 160M and a 1.3B model for GPUs, a small one for CPUs.
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/gated/gated.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t rows, int64_t width) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor gate_up = at::randn({rows, 2 * width}, options).requires_grad_();
  const at::Tensor dy = at::randn({rows, width}, options);
  const double bytes = static_cast<double>(dy.numel() * dy.element_size());
  for (const auto& [name, activation] :
       {std::pair{"silu", Activation::kSilu}, {"gelu", Activation::kGelu}}) {
    const std::string shape = fmt::format("{} {} x {} bf16", name, rows, width);
    const auto forward = [&] { return gated(gate_up, activation); };
    report.time({.op = "gated", .shape = shape, .pass = "f", .bytes = 3 * bytes}, forward);
    report.time({.op = "gated", .shape = shape, .pass = "f+b", .bytes = (3 + 5) * bytes},
                [&] { torch::autograd::grad({forward()}, {gate_up}, {dy}); });
  }
}

void bench_gated(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 2048);
  bench_shape(report, 32768, 2048);
  bench_shape(report, 32768, 5504);
}

const RegisterBench kBench("gated", bench_gated);

}  // namespace
}  // namespace ceiling
