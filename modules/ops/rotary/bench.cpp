// 32,768 tokens of a 160M LLaMA's heads, and of grouped queries, for GPUs; a small shape for CPUs.
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/rotary/rotary.h"

namespace ceiling {
namespace {

void bench_shape(BenchReport& report, int64_t batch, int64_t seq_len, const RotaryLayout& layout) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(report.device());
  const int64_t turned = (layout.n_q_heads + layout.n_k_heads) * layout.head_dim;
  const int64_t width = turned + layout.rest[0];
  const at::Tensor x = at::randn({batch, seq_len, width}, options).requires_grad_();
  RotaryTable table(rope_frequencies(layout.head_dim, 10000));
  const std::vector<at::Tensor> gradients = {
      at::randn({batch, seq_len, layout.n_q_heads, layout.head_dim}, options),
      at::randn({batch, seq_len, layout.n_k_heads, layout.head_dim}, options),
      at::randn({batch, seq_len, layout.rest[0]}, options)};
  const std::string shape =
      fmt::format("B {} T {} H {}/{} hd {}{} bf16", batch, seq_len, layout.n_q_heads,
                  layout.n_k_heads, layout.head_dim, layout.interleaved ? " interleaved" : "");
  const auto bytes = [&](int64_t channels) {
    return static_cast<double>(batch * seq_len * channels * x.element_size());
  };
  const auto forward = [&] { return split_rotary(x, {}, table, layout); };
  report.time({.op = "rotary", .shape = shape, .pass = "f", .bytes = bytes(2 * turned)}, forward);
  report.time(
      {.op = "rotary", .shape = shape, .pass = "f+b", .bytes = bytes(2 * turned + 2 * width)}, [&] {
        const RotaryOutput out = forward();
        torch::autograd::grad({out.q, out.k, out.rest[0]}, {x}, gradients);
      });
}

void bench_rotary(BenchReport& report) {
  const auto layout = [](int64_t q_heads, int64_t k_heads, bool interleaved) {
    return RotaryLayout{.n_q_heads = q_heads,
                        .n_k_heads = k_heads,
                        .head_dim = 64,
                        .rest = {k_heads * 64},
                        .interleaved = interleaved};
  };
  if (report.device().is_cpu()) return bench_shape(report, 8, 256, layout(12, 12, false));
  bench_shape(report, 16, 2048, layout(12, 12, false));
  bench_shape(report, 16, 2048, layout(12, 12, true));
  bench_shape(report, 16, 2048, layout(12, 4, false));
}

const RegisterBench kBench("rotary", bench_rotary);

}  // namespace
}  // namespace ceiling
