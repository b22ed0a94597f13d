// Shapes of shared peers' scripts: a small one for CPUs, and 32,768 tokens of 16 heads for GPUs.
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/retention/retention.h"

namespace ceiling {
namespace {

void bench_retention(BenchReport& report) {
  const bool cpu = report.device().is_cpu();
  const int64_t batch = cpu ? 8 : 16, seq_len = cpu ? 256 : 2048, heads = cpu ? 4 : 16,
                k_dim = cpu ? 64 : 128, v_dim = 128;
  const int64_t chunk = cpu ? 32 : 64;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto options = at::TensorOptions().dtype(dtype).device(report.device());
    const at::Tensor q = at::randn({batch, seq_len, heads, k_dim}, options).requires_grad_();
    const at::Tensor k = at::randn({batch, seq_len, heads, k_dim}, options).requires_grad_();
    const at::Tensor v = at::randn({batch, seq_len, heads, v_dim}, options).requires_grad_();
    const at::Tensor dy = at::randn({batch, seq_len, heads, v_dim}, options);
    at::Tensor log_decay = at::empty({heads}, at::kDouble);
    for (int64_t h = 0; h < heads; ++h)
      log_decay[h] = std::log1p(-std::exp2(-5.0 - static_cast<double>(h)));
    const double qk = static_cast<double>(q.numel()), vv = static_cast<double>(v.numel());
    const double element = static_cast<double>(q.element_size());
    const double flops =
        4.0 * static_cast<double>(batch * seq_len * heads) * static_cast<double>(k_dim * v_dim);
    for (const auto& [form, name] : {std::pair{RetentionForm::kChunk, "chunk"},
                                     std::pair{RetentionForm::kRecurrent, "recurrent"}}) {
      if (!cpu && form == RetentionForm::kRecurrent)
        continue;  // token by token: not a training form on a GPU
      const std::string shape =
          fmt::format("{} B {} T {} H {} K {} V {} {}", name, batch, seq_len, heads, k_dim, v_dim,
                      dtype == at::kFloat ? "fp32" : "bf16");
      const auto forward = [&, form = form] {
        return retention(q, k, v, log_decay, {}, {}, form, chunk).o;
      };
      report.time({.op = "retention",
                   .shape = shape,
                   .pass = "f",
                   .bytes = (2 * qk + 2 * vv) * element,
                   .flops = flops},
                  forward);
      report.time({.op = "retention",
                   .shape = shape,
                   .pass = "f+b",
                   .bytes = (6 * qk + 6 * vv) * element,
                   .flops = 4 * flops},
                  [&] {
                    torch::autograd::grad({forward()}, {q, k, v}, {dy});
                  });
    }
  }
}

const RegisterBench kBench("retention", bench_retention);

}  // namespace
}  // namespace ceiling
