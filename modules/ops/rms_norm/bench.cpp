// 32,768 rows at the widths of a 160M and a 1.3B model for GPUs, a small one for CPUs.
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/rms_norm/rms_norm.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t rows, int64_t dim) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor x = at::randn({rows, dim}, options).requires_grad_();
  const at::Tensor residual = at::randn({rows, dim}, options).requires_grad_();
  const at::Tensor dy = at::randn({rows, dim}, options), dsum = at::randn({rows, dim}, options);
  Parameter weight;
  weight.value = at::ones({dim}, options).requires_grad_();
  weight.grad = at::zeros({dim}, options.dtype(at::kFloat));
  const std::string shape = fmt::format("{} x {} bf16", rows, dim);
  const double bytes = static_cast<double>(x.numel() * x.element_size());
  const auto row = [&](const char* name, const char* pass, double tensors) {
    return BenchRow{.op = "rms_norm",
                    .shape = fmt::format("{}{}", name, shape),
                    .pass = pass,
                    .bytes = tensors * bytes};
  };
  const auto norm = [&] { return rms_norm(x, weight, 1e-6); };
  report.time(row("", "f", 2), norm);
  report.time(row("", "f+b", 2 + 3), [&] { torch::autograd::grad({norm()}, {x}, {dy}); });
  const auto add_norm = [&] { return add_rms_norm(x, residual, weight, 1e-6); };
  report.time(row("add ", "f", 4), add_norm);
  report.time(row("add ", "f+b", 4 + 4), [&] {
    const AddRmsNormOutput out = add_norm();
    torch::autograd::grad({out.y, out.residual}, {x, residual}, {dy, dsum});
  });
}

void bench_rms_norm(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 768);
  bench_shape(report, 32768, 768);
  bench_shape(report, 32768, 2048);
}

const RegisterBench kBench("rms_norm", bench_rms_norm);

}  // namespace
}  // namespace ceiling
