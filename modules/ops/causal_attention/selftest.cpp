#include "modules/ops/selftest.h"

#include <ATen/ops/arange.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "modules/ops/causal_attention/causal_attention.h"
#include "modules/ops/causal_attention/packed_attention.h"
#include "modules/segments.h"

namespace ceiling {
namespace {

struct Shape {
  int64_t batch, seq_len, heads, kv_heads, head_dim, document, window;  // document: 0: none
};

// The kernels of the CPU there, packed attention on a GPU, which is for bfloat16 alone.
const RegisterSelftest kSelftest("causal_attention", [](SelftestReport& report) {
  const bool on_gpu = report.device().is_cuda();
  for (const Shape& s : {Shape{2, 130, 4, 2, 64, 47, 33}, Shape{2, 200, 3, 1, 128, 0, 65},
                         Shape{1, 193, 2, 2, 64, 64, kNoWindow}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      if (on_gpu && dtype != at::kBFloat16) continue;
      const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
      at::Tensor document;
      Segments segments;
      if (s.document > 0) {
        document = at::arange(s.seq_len, at::kInt)
                       .div(s.document, "floor")
                       .to(at::kInt)
                       .expand({s.batch, s.seq_len})
                       .contiguous();
        segments = make_segments(document);
      }
      const int64_t longest = s.document > 0 ? std::min(s.document, s.seq_len) : s.seq_len;
      const std::vector<at::Tensor> inputs = {
          report.random({s.batch, s.seq_len, s.heads, s.head_dim}),
          report.random({s.batch, s.seq_len, s.kv_heads, s.head_dim}),
          report.random({s.batch, s.seq_len, s.kv_heads, s.head_dim})};
      report.differentiable(
          "causal_attention",
          fmt::format("B {} T {} H {}/{} head {}{}{}", s.batch, s.seq_len, s.heads, s.kv_heads,
                      s.head_dim, s.document > 0 ? ", documents" : "",
                      s.window == kNoWindow ? "" : fmt::format(", window {}", s.window)),
          [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
            if (!on_gpu) return {causal_attention(in[0], in[1], in[2], document, scale, s.window)};
            const at::Tensor bounds =
                segments.any() ? segments.bounds.to(report.device()) : at::Tensor();
            return {packed_attention(in[0], in[1], in[2], bounds, longest, scale, s.window)};
          },
          [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
            return {causal_attention_reference(in[0], in[1], in[2], document, scale, s.window)};
          },
          inputs, {}, dtype, selftest_bound(dtype));
    }
});

}  // namespace
}  // namespace ceiling
