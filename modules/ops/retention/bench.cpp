// Shapes of shared peers' scripts: a small one for CPUs, and 32,768 tokens of 16 heads for GPUs.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <cmath>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/retention/retention.h"

namespace ceiling {
namespace {

struct BenchCase {
  int64_t batch, seq_len, heads, k_dim, v_dim;
  at::ScalarType dtype;
  RetentionForm form = RetentionForm::kChunk;
};

std::vector<BenchCase> cases_for(at::Device device) {
  std::vector<BenchCase> cases;
  if (device.is_cpu()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      for (const RetentionForm form : {RetentionForm::kChunk, RetentionForm::kRecurrent})
        cases.push_back({8, 256, 4, 64, 128, dtype, form});
    return cases;
  }
  for (const int64_t seq_len : {2048, 8192, 32768})
    for (const auto& [heads, k_dim, v_dim] :
         {std::array<int64_t, 3>{16, 128, 128}, {8, 256, 512}, {3, 256, 512}, {32, 64, 64}})
      cases.push_back({32768 / seq_len, seq_len, heads, k_dim, v_dim, at::kBFloat16});
  cases.push_back({64, 1, 3, 256, 512, at::kBFloat16, RetentionForm::kRecurrent});
  return cases;
}

void bench_case(const BenchCase& c, BenchReport& report) {
  const auto options = at::TensorOptions().dtype(c.dtype).device(report.device());
  const auto random = [&](int64_t width) {
    return at::randn({c.batch, c.seq_len, c.heads, width}, options).requires_grad_();
  };
  const at::Tensor q = random(c.k_dim), k = random(c.k_dim), v = random(c.v_dim);
  const at::Tensor dy = random(c.v_dim).detach();
  at::Tensor log_decay = at::empty({c.heads}, at::kDouble);
  for (int64_t h = 0; h < c.heads; ++h)
    log_decay[h] = std::log1p(-std::exp2(-5.0 - static_cast<double>(h)));
  const bool decode = c.seq_len == 1;
  const at::Tensor state =
      decode ? at::zeros({c.batch, c.heads, c.k_dim, c.v_dim}, options.dtype(at::kFloat))
             : at::Tensor();
  const double qk = static_cast<double>(q.numel()), vv = static_cast<double>(v.numel());
  const double element = static_cast<double>(q.element_size());
  // The recurrence itself: the state takes in and gives out one product per token.
  const double flops = 4 * qk * static_cast<double>(c.v_dim);
  const double state_bytes = decode ? 8 * static_cast<double>(state.numel()) : 0;
  const std::string shape = fmt::format(
      "{} B {} T {} H {} K {} V {} {}", c.form == RetentionForm::kChunk ? "chunk" : "recurrent",
      c.batch, c.seq_len, c.heads, c.k_dim, c.v_dim, c.dtype == at::kFloat ? "fp32" : "bf16");
  const auto forward = [&] {
    return retention(q, k, v, log_decay, state, {}, c.form, report.device().is_cpu() ? 32 : 64).o;
  };
  report.time({.op = "retention",
               .shape = shape,
               .pass = "f",
               .bytes = (2 * qk + 2 * vv) * element + state_bytes,
               .flops = flops},
              [&] {
                at::NoGradGuard no_grad;
                forward();
              });
  if (decode) return;
  report.time({.op = "retention",
               .shape = shape,
               .pass = "f+b",
               .bytes = (6 * qk + 5 * vv) * element,
               .flops = 4 * flops},
              [&] {
                torch::autograd::grad({forward()}, {q, k, v}, {dy});
              });
}

void bench_retention(BenchReport& report) {
  for (const BenchCase& c : cases_for(report.device())) bench_case(c, report);
}

const RegisterBench kBench("retention", bench_retention);

}  // namespace
}  // namespace ceiling
