// On a CPU against at::scaled_dot_product_attention at the shape of shared peers' scripts and at a
// long one; on a GPU windows and documents against all keys, by cuDNN and by FlashAttention.
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/causal_attention/causal_attention.h"
#include "modules/ops/causal_attention/cudnn_attention.h"
#include "modules/ops/causal_attention/packed_attention.h"
#include "modules/ops/causal_attention/without_cudnn.h"

namespace ceiling {
namespace {

struct BenchShape {
  int64_t batch, seq_len, heads, head_dim;
};

void time_both(BenchReport& report, const BenchShape& s, const std::string& name,
               at::ScalarType dtype, int64_t window,
               const std::function<at::Tensor(const std::vector<at::Tensor>&)>& attention) {
  const auto options = at::TensorOptions().dtype(dtype).device(report.device());
  std::vector<at::Tensor> in;
  for (int i = 0; i < 3; ++i)
    in.push_back(at::randn({s.batch, s.seq_len, s.heads, s.head_dim}, options).requires_grad_());
  const at::Tensor dy = at::randn({s.batch, s.seq_len, s.heads, s.head_dim}, options);
  const auto n = static_cast<double>(dy.numel());
  const double bytes = n * static_cast<double>(dy.element_size());
  const auto seen = static_cast<double>(std::min(window, s.seq_len));
  const double keys = seen * (1 - (seen - 1) / (2 * static_cast<double>(s.seq_len)));
  const double flops = 4 * n * keys;
  const std::string shape =
      fmt::format("B {} T {} H {} hd {} {}", s.batch, s.seq_len, s.heads, s.head_dim, name);
  report.time(
      {.op = "causal_attention", .shape = shape, .pass = "f", .bytes = 4 * bytes, .flops = flops},
      [&] { attention(in); });
  report.time({.op = "causal_attention",
               .shape = shape,
               .pass = "f+b",
               .bytes = 12 * bytes,
               .flops = 3.5 * flops},
              [&] { torch::autograd::grad({attention(in)}, in, {dy}); });
}

// Documents of 1 to twice `mean` tokens, in rows of one after another: [n + 1] int32.
at::Tensor document_bounds(const BenchShape& s, int64_t mean, at::Device device) {
  std::vector<int> bounds;
  uint32_t random = 1;
  for (int64_t row = 0; row < s.batch; ++row)
    for (int64_t t = 0; t < s.seq_len; t += 1 + random % (2 * mean)) {
      random = random * 1664525U + 1013904223U;
      bounds.push_back(static_cast<int>(row * s.seq_len + t));
    }
  bounds.push_back(static_cast<int>(s.batch * s.seq_len));
  return at::tensor(bounds, at::kInt).to(device);
}

// What the layer calls there: torch's own, and for windows and documents cuDNN beside torch's
// FlashAttention, which is taken where there is no cuDNN for it. Rows of documents are counted as
// if each saw all of its row.
void bench_windows(BenchReport& report) {
  const BenchShape s{4, 8192, 16, 128};
  const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  time_both(report, s, "bf16 torch", at::kBFloat16, kNoWindow,
            [](const std::vector<at::Tensor>& x) {
              return at::scaled_dot_product_attention(x[0].transpose(1, 2), x[1].transpose(1, 2),
                                                      x[2].transpose(1, 2), {}, 0.0, true)
                  .transpose(1, 2);
            });
  const at::Tensor probe = at::empty(
      {1, 2, 1, s.head_dim}, at::TensorOptions().dtype(at::kBFloat16).device(report.device()));
  const bool has_cudnn = cudnn_attention_supports(probe, 2);
  const auto both = [&](const std::string& name, const at::Tensor& bounds, int64_t window) {
    for (const bool flash : {false, true})
      if (flash || has_cudnn)
        time_both(report, s, fmt::format("bf16 {} {}", name, flash ? "flash" : "cuDNN"),
                  at::kBFloat16, window, [&](const std::vector<at::Tensor>& x) {
                    const WithoutCudnn without(flash);
                    return packed_attention(x[0], x[1], x[2], bounds, s.seq_len, scale, window);
                  });
  };
  for (const int64_t window : {1024, 2048}) both(fmt::format("window {}", window), {}, window);
  for (const int64_t mean : {256, 2048}) {
    const at::Tensor bounds = document_bounds(s, mean, report.device());
    both(fmt::format("documents of {}", mean), bounds, kNoWindow);
    both(fmt::format("documents of {} window 1024", mean), bounds, 1024);
  }
}

void bench_causal_attention(BenchReport& report) {
  if (!report.device().is_cpu()) return bench_windows(report);
  for (const BenchShape& s : {BenchShape{8, 256, 4, 64}, BenchShape{1, 2048, 8, 64}}) {
    const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
    const auto ours = [scale](std::optional<Bf16Product> product) {
      return [=](const std::vector<at::Tensor>& x) {
        return causal_attention(x[0], x[1], x[2], {}, scale, kNoWindow, product);
      };
    };
    const auto torchs = [](const std::vector<at::Tensor>& x) {
      return at::scaled_dot_product_attention(x[0].transpose(1, 2), x[1].transpose(1, 2),
                                              x[2].transpose(1, 2), {}, 0.0, true)
          .transpose(1, 2);
    };
    time_both(report, s, "fp32 torch", at::kFloat, kNoWindow, torchs);
    time_both(report, s, "fp32", at::kFloat, kNoWindow, ours({}));
    time_both(report, s, "bf16 torch", at::kBFloat16, kNoWindow, torchs);
    for (const Bf16Product product : bf16_products())
      time_both(
          report, s,
          std::vector{"bf16 widened", "bf16 pairs", "bf16 tiles"}[static_cast<size_t>(product)],
          at::kBFloat16, kNoWindow, ours(product));
  }
}

const RegisterBench kBench("causal_attention", bench_causal_attention);

}  // namespace
}  // namespace ceiling
