// The gradients of a 160M model for GPUs, of a small one for CPUs.
#include <ATen/ops/randn.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/grad_norm/grad_norm.h"

namespace ceiling {
namespace {

void bench_grad_norm(BenchReport& report) {
  const int64_t n = report.device().is_cpu() ? 1 << 22 : 162'000'000;
  const at::Tensor flat =
      at::randn({n}, at::TensorOptions().dtype(at::kFloat).device(report.device()));
  report.time({.op = "grad_norm",
               .shape = fmt::format("{:.0f} M numbers", static_cast<double>(n) / 1e6),
               .pass = "f",
               .bytes = 4.0 * static_cast<double>(n)},
              [&] { squared_norm(flat); });
}

const RegisterBench kBench("grad_norm", bench_grad_norm);

}  // namespace
}  // namespace ceiling
