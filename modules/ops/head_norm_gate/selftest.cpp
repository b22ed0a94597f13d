#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/head_norm_gate/head_norm_gate.h"
#include "modules/ops/rotary/rotary.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

constexpr double kEps = 1e-6;

const RegisterSelftest kSelftest("head_norm_gate", [](SelftestReport& report) {
  for (const auto& [heads, dim] : {std::pair<int64_t, int64_t>{3, 20}, {5, 64}, {2, 512}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      report.differentiable(
          "head_norm_gate", fmt::format("2 x 70 x {} x {}", heads, dim),
          [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            // The gate is a slice of a wider projection.
            return {head_norm_gate(in[0], in[1].narrow(2, 8, in[1].size(2) - 8), &w[0], kEps,
                                   Activation::kSilu)};
          },
          [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            return {head_norm_gate_reference(in[0], in[1].narrow(2, 8, in[1].size(2) - 8), w[0],
                                             kEps, Activation::kSilu)};
          },
          {report.random({2, 70, heads, dim}), report.random({2, 70, heads * dim + 8})},
          {1 + report.random({dim}) / 4}, dtype, selftest_bound(dtype));
  // The gate's gradient in its place in that of the projection; odd widths have rows that begin
  // anywhere.
  for (const auto& [dim, other] : {std::pair<int64_t, int64_t>{64, 24}, {20, 3}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const RotaryLayout layout{
          .n_q_heads = 1, .n_k_heads = 1, .head_dim = 8, .rest = {other, 3 * dim}};
      RotaryTable table(rope_frequencies(8, 10000));
      report.differentiable(
          "head_norm_gate", fmt::format("2 x 70 x 3 x {}, in place", dim),
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            const RotaryOutput parts = split_rotary(in[1], {}, table, layout);
            return {head_norm_gate(in[0], parts.rest[1], &w[0], kEps, Activation::kSilu,
                                   parts.places[1]),
                    parts.rest[0]};
          },
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            return {head_norm_gate_reference(in[0], in[1].narrow(2, 16 + other, 3 * dim), w[0],
                                             kEps, Activation::kSilu),
                    in[1].narrow(2, 16, other)};
          },
          {report.random({2, 70, 3, dim}), report.random({2, 70, 16 + other + 3 * dim})},
          {1 + report.random({dim}) / 4}, dtype, selftest_bound(dtype));
    }
});

}  // namespace
}  // namespace ceiling
