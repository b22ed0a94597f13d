// The widths of a 160M and a 1.3B model, 32,768 tokens, for GPUs; a small shape for CPUs.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/linear_scan/linear_scan.h"

namespace ceiling {
namespace {

Parameter filled(const BenchReport& report, int64_t dim, double value) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(report.device());
  Parameter made;
  made.value = at::full({dim}, value, options).requires_grad_();
  made.grad = at::zeros({dim}, options);
  return made;
}

void bench_shape(BenchReport& report, int64_t batch, int64_t seq_len, int64_t dim,
                 at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype).device(report.device());
  const auto random = [&] { return at::randn({batch, seq_len, dim}, options).requires_grad_(); };
  const at::Tensor x = random(), recurrence = random(), input = random();
  const at::Tensor dh = random().detach();
  const Parameter lambda = filled(report, dim, -4), recurrence_bias = filled(report, dim, 0),
                  input_bias = filled(report, dim, 0);
  const RgLruParameters parameters{lambda, recurrence_bias, input_bias};
  const double tensor = static_cast<double>(x.numel() * x.element_size());
  BenchRow forward;
  forward.op = "linear_scan", forward.pass = "f", forward.bytes = 4 * tensor;
  forward.shape = fmt::format("rg_lru B {} T {} D {} {}", batch, seq_len, dim,
                              dtype == at::kFloat ? "fp32" : "bf16");
  BenchRow both = forward;
  both.pass = "f+b", both.bytes = (4 + 7) * tensor;  // h could be found again instead of read
  report.time(forward, [&] {
    at::NoGradGuard no_grad;
    rg_lru(x, recurrence, input, parameters, {}, {});
  });
  report.time(both, [&] {
    torch::autograd::grad({rg_lru(x, recurrence, input, parameters, {}, {}).h},
                          {x, recurrence, input}, {dh});
  });
}

void bench_linear_scan(BenchReport& report) {
  if (report.device().is_cpu()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      bench_shape(report, 8, 256, 256, dtype);
    return;
  }
  for (const int64_t seq_len : {2048, 32768})
    for (const int64_t dim : {1024, 2048})
      bench_shape(report, 32768 / seq_len, seq_len, dim, at::kBFloat16);
}

const RegisterBench kBench("linear_scan", bench_linear_scan);

}  // namespace
}  // namespace ceiling
