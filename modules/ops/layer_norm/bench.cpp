// The shapes of rms_norm's rows.
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/layer_norm/layer_norm.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t rows, int64_t dim) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const at::Tensor x = at::randn({rows, dim}, options).requires_grad_(),
                   dy = at::randn({rows, dim}, options);
  Parameter weight, bias;
  weight.value = at::ones({dim}, options).requires_grad_();
  weight.grad = at::zeros({dim}, options.dtype(at::kFloat));
  bias.value = at::zeros({dim}, options).requires_grad_();
  bias.grad = at::zeros({dim}, options.dtype(at::kFloat));
  const auto row = [&](const char* pass, double tensors) {
    return BenchRow{.op = "layer_norm",
                    .shape = fmt::format("{} x {} bf16", rows, dim),
                    .pass = pass,
                    .bytes = tensors * static_cast<double>(x.numel() * x.element_size())};
  };
  const auto norm = [&] { return layer_norm(x, weight, &bias, 1e-5); };
  report.time(row("f", 2), norm);
  report.time(row("f+b", 2 + 3), [&] { torch::autograd::grad({norm()}, {x}, {dy}); });
}

void bench_layer_norm(BenchReport& report) {
  if (report.device().is_cpu()) return bench_shape(report, 2048, 768);
  bench_shape(report, 32768, 768);
  bench_shape(report, 32768, 2048);
}

const RegisterBench kBench("layer_norm", bench_layer_norm);

}  // namespace
}  // namespace ceiling
