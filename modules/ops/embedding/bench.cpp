// 32,768 tokens of a 160M model's table for GPUs, a small one for CPUs: tokens as rare as they can
// be, as frequent as words are (Zipf), and all equal.
#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <unordered_set>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/embedding/embedding.h"

namespace ceiling {
namespace {

void bench_tokens(BenchReport& report, const std::string& name, const at::Tensor& tokens,
                  const Parameter& weight) {
  const int64_t rows = weight.value.size(0), dim = weight.value.size(1);
  const at::Tensor ids = tokens.to(at::kInt);
  const std::unordered_set<int> different(ids.const_data_ptr<int>(),
                                          ids.const_data_ptr<int>() + ids.numel());
  const at::Tensor on_device = ids.to(report.device());
  const at::Tensor dy = at::randn({1, ids.numel(), dim}, weight.value.options());
  const double bytes = static_cast<double>(dy.numel() * dy.element_size());
  const double met = static_cast<double>(static_cast<int64_t>(different.size()) * dim);
  const double forward_bytes = bytes + met * static_cast<double>(dy.element_size());
  const std::string shape = fmt::format("{} {} of {} x {} bf16", ids.numel(), name, rows, dim);
  const auto forward = [&] { return embedding(on_device, weight, 1); };
  report.time({.op = "embedding", .shape = shape, .pass = "f", .bytes = forward_bytes}, forward);
  // A gradient row that is met is read and written in float32.
  report.time(
      {.op = "embedding", .shape = shape, .pass = "f+b", .bytes = forward_bytes + bytes + 8 * met},
      [&] { torch::autograd::backward({forward()}, {dy}); });
}

void bench_embedding(BenchReport& report) {
  const bool small = report.device().is_cpu();
  const int64_t n_tokens = small ? 2048 : 32768, rows = small ? 4096 : 50304, dim = 768;
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  Parameter weight;
  weight.value = at::randn({rows, dim}, options).requires_grad_();
  weight.grad = at::zeros({rows, dim}, options.dtype(at::kFloat));
  const at::Tensor even = at::rand({1, n_tokens}, at::kDouble);
  bench_tokens(report, "even", even * rows, weight);
  bench_tokens(report, "zipf", (even * std::log(rows)).exp() - 1, weight);
  bench_tokens(report, "equal", even * 0, weight);
}

const RegisterBench kBench("embedding", bench_embedding);

}  // namespace
}  // namespace ceiling
