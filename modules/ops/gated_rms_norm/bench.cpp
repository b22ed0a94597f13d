// 32,768 rows at the inner widths of Mamba-2 with D 768 and 2048 for GPUs, a small one for CPUs.
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/gated_rms_norm/gated_rms_norm.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t rows, int64_t dim) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor x = at::randn({1, rows, dim}, options).requires_grad_(),
                   gate = at::randn({1, rows, dim}, options).requires_grad_(),
                   dy = at::randn({1, rows, dim}, options);
  Parameter weight;
  weight.value = at::ones({dim}, options).requires_grad_();
  weight.grad = at::zeros({dim}, options.dtype(at::kFloat));
  const std::string shape = fmt::format("{} x {} bf16", rows, dim);
  const double bytes = static_cast<double>(x.numel() * x.element_size());
  const auto forward = [&] { return gated_rms_norm(x, gate, weight, 1, 1e-5); };
  report.time({.op = "gated_rms_norm", .shape = shape, .pass = "f", .bytes = 3 * bytes}, forward);
  report.time({.op = "gated_rms_norm", .shape = shape, .pass = "f+b", .bytes = (3 + 5) * bytes},
              [&] {
                torch::autograd::grad({forward()}, {x, gate}, {dy});
              });
}

void bench_gated_rms_norm(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 512);
  bench_shape(report, 32768, 1536);
  bench_shape(report, 32768, 4096);
}

const RegisterBench kBench("gated_rms_norm", bench_gated_rms_norm);

}  // namespace
}  // namespace ceiling
