// 32,768 rows of six heads of 256 and sixteen of 128 for GPUs, a small shape for CPUs.
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/head_norm_gate/head_norm_gate.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t rows, int64_t heads, int64_t dim) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor o = at::randn({1, rows, heads, dim}, options).requires_grad_();
  const at::Tensor gate = at::randn({1, rows, heads * dim}, options).requires_grad_();
  const at::Tensor dy = at::randn({1, rows, heads * dim}, options);
  Parameter weight;
  weight.value = at::ones({dim}, options).requires_grad_();
  weight.grad = at::zeros({dim}, options.dtype(at::kFloat));
  const std::string shape = fmt::format("{} x {} x {} bf16", rows, heads, dim);
  const double bytes = static_cast<double>(o.numel() * o.element_size());
  const auto row = [&](const char* pass, double tensors) {
    return BenchRow{.op = "head_norm_gate", .shape = shape, .pass = pass, .bytes = tensors * bytes};
  };
  const auto forward = [&] { return head_norm_gate(o, gate, &weight, 1e-6, Activation::kSilu); };
  report.time(row("f", 3), forward);
  report.time(row("f+b", 3 + 5), [&] { torch::autograd::grad({forward()}, {o, gate}, {dy}); });
}

void bench_head_norm_gate(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 6, 256);
  bench_shape(report, 32768, 6, 256);
  bench_shape(report, 32768, 16, 128);
}

const RegisterBench kBench("head_norm_gate", bench_head_norm_gate);

}  // namespace
}  // namespace ceiling
