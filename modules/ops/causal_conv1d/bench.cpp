// The channels of Mamba-2 at width 2048 with a state of 128 for GPUs, a small shape for CPUs.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/causal_conv1d/causal_conv1d.h"

namespace ceiling {
namespace {

Parameter random_parameter(at::IntArrayRef shape, const at::TensorOptions& options) {
  Parameter parameter;
  parameter.value = at::randn(shape, options).requires_grad_();
  parameter.grad = at::zeros(shape, options.dtype(at::kFloat));
  return parameter;
}

void bench_shape(BenchReport& report, int64_t batch, int64_t seq_len, int64_t channels,
                 at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype).device(report.device());
  const at::Tensor x = at::randn({batch, seq_len, channels}, options).requires_grad_(),
                   dy = at::randn({batch, seq_len, channels}, options);
  const Parameter weight = random_parameter({channels, 1, 4}, options),
                  bias = random_parameter({channels}, options);
  const std::string shape = fmt::format("{} x {} x {} {}", batch, seq_len, channels,
                                        dtype == at::kFloat ? "fp32" : "bf16");
  const double bytes = static_cast<double>(x.numel() * x.element_size());
  const auto forward = [&] { return causal_conv1d(x, weight, &bias, {}, {}, true).y; };
  report.time({.op = "causal_conv1d", .shape = shape, .pass = "f", .bytes = 2 * bytes}, [&] {
    at::NoGradGuard no_grad;
    forward();
  });
  report.time({.op = "causal_conv1d", .shape = shape, .pass = "f+b", .bytes = 5 * bytes},
              [&] { torch::autograd::grad({forward()}, {x}, {dy}); });
}

void bench_causal_conv1d(BenchReport& report) {
  if (report.device().is_cpu()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      bench_shape(report, 8, 256, 768, dtype);
    return;
  }
  bench_shape(report, 16, 2048, 4352, at::kBFloat16);
  bench_shape(report, 1, 32768, 1792, at::kBFloat16);
}

const RegisterBench kBench("causal_conv1d", bench_causal_conv1d);

}  // namespace
}  // namespace ceiling
