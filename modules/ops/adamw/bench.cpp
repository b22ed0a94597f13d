// One update of a 160M model's parameters for GPUs, of a small one's for CPUs.
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "modules/ops/adamw/adamw.h"
#include "modules/ops/bench.h"

namespace ceiling {
namespace {

void bench_adamw(BenchReport& report) {
  const int64_t n = report.device().is_cpu() ? 1 << 22 : 162'000'000;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(report.device());
  const at::Tensor master = at::randn({n}, options), grad = at::randn({n}, options),
                   m = at::zeros({n}, options), v = at::zeros({n}, options),
                   copy = at::zeros({n}, options.dtype(at::kBFloat16));
  const std::vector<AdamwGroup> groups{{0, n, 0.1, 1}};
  AdamwStep step{.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .step = 0, .grad_scale = 1};
  // Reads and writes master, gradient and both moments, writes the copy.
  report.time({.op = "adamw",
               .shape = fmt::format("{:.0f} M parameters", static_cast<double>(n) / 1e6),
               .pass = "step",
               .bytes = 34.0 * static_cast<double>(n)},
              [&] {
                ++step.step;
                adamw(master, grad, m, v, copy, groups, step);
              });
}

const RegisterBench kBench("adamw", bench_adamw);

}  // namespace
}  // namespace ceiling
