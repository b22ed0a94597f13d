// The products of LLaMA and RetNet at 160M parameters, 32,768 tokens, for GPUs; a small one for
// CPUs.
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/linear/gemm.h"
#include "modules/ops/linear/linear.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t rows, int64_t in, int64_t out) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor x = at::randn({rows, in}, options), w = at::randn({out, in}, options),
                   dy = at::randn({rows, out}, options),
                   grad = at::zeros({out, in}, options.dtype(at::kFloat));
  const double of_x = 2.0 * static_cast<double>(x.numel()),
               of_y = 2.0 * static_cast<double>(dy.numel()),
               of_w = 2.0 * static_cast<double>(w.numel());
  const auto row = [&](const char* pass, double bytes) {
    return BenchRow{.op = "linear",
                    .shape = fmt::format("{} x {} to {} bf16", rows, in, out),
                    .pass = pass,
                    .bytes = bytes,
                    .flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in) *
                             static_cast<double>(out)};
  };
  report.time(row("y", of_x + of_w + of_y), [&] { gemm(x, w.t(), {}, Recurs::kYes); });
  report.time(row("dx", of_y + of_w + of_x), [&] { gemm(dy, w, {}, Recurs::kYes); });
  // Reads and writes the float32 buffer.
  report.time(row("dw", of_x + of_y + 4 * of_w), [&] { accumulate_weight_grad(grad, dy, x); });
}

void bench_linear(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 256, 768);
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{768, 2304},
                                {768, 768},
                                {768, 4096},
                                {2048, 768},
                                {768, 4608},
                                {1536, 768},
                                {768, 2048},
                                {1024, 768}})
    bench_shape(report, 32768, in, out);
  bench_shape(report, 8192, 768, 50304);
}

const RegisterBench kBench("linear", bench_linear);

}  // namespace
}  // namespace ceiling
