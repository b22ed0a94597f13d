// The peers' shapes: D 256 with a state of 128 for CPUs; 64 heads of 64, state 128, for GPUs.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/ssd/ssd.h"

namespace ceiling {
namespace {

struct BenchCase {
  int64_t batch, seq_len, heads, dim, d_state;
  at::ScalarType dtype;
};

void bench_case(const BenchCase& k, BenchReport& report) {
  const auto options = at::TensorOptions().dtype(k.dtype).device(report.device());
  const auto random = [&](at::IntArrayRef shape) {
    return at::randn(shape, options).requires_grad_();
  };
  const at::Tensor x = random({k.batch, k.seq_len, k.heads, k.dim}),
                   dt = random({k.batch, k.seq_len, k.heads}),
                   b = random({k.batch, k.seq_len, 1, k.d_state}),
                   c = random({k.batch, k.seq_len, 1, k.d_state}),
                   dy = at::randn(x.sizes(), options);
  const auto parameter = [&](double low, double high) {
    Parameter made;
    made.value = at::linspace(low, high, k.heads, options.dtype(at::kFloat)).requires_grad_();
    made.grad = at::zeros_like(made.value);
    return made;
  };
  const Parameter a_log = parameter(0, 2.7), d = parameter(1, 1), dt_bias = parameter(-6, -2);
  const double xs = static_cast<double>(x.numel()), bs = static_cast<double>(b.numel()),
               dts = static_cast<double>(dt.numel()),
               element = static_cast<double>(x.element_size()),
               flops = 4 * xs * static_cast<double>(k.d_state);
  const std::string shape = fmt::format("B {} T {} H {} P {} N {} {}", k.batch, k.seq_len, k.heads,
                                        k.dim, k.d_state, k.dtype == at::kFloat ? "fp32" : "bf16");
  const auto forward = [&] { return ssd(x, dt, b, c, {a_log, d, dt_bias}, {}, {}, {}).y; };
  report.time({.op = "ssd",
               .shape = shape,
               .pass = "f",
               .bytes = (2 * xs + 2 * bs + dts) * element,
               .flops = flops},
              [&] {
                at::NoGradGuard no_grad;
                forward();
              });
  report.time({.op = "ssd",
               .shape = shape,
               .pass = "f+b",
               .bytes = (5 * xs + 6 * bs + 3 * dts) * element,
               .flops = 4 * flops},
              [&] {
                torch::autograd::grad({forward()}, {x, dt, b, c}, {dy});
              });
}

void bench_ssd(BenchReport& report) {
  if (report.device().is_cpu()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      bench_case({8, 256, 8, 64, 128, dtype}, report);
    return;
  }
  for (const int64_t seq_len : {2048, 8192, 32768})
    bench_case({32768 / seq_len, seq_len, 64, 64, 128, at::kBFloat16}, report);
}

const RegisterBench kBench("ssd", bench_ssd);

}  // namespace
}  // namespace ceiling
