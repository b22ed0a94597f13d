#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/gated_rms_norm/gated_rms_norm.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

constexpr double kEps = 1e-5;

const RegisterSelftest kSelftest("gated_rms_norm", [](SelftestReport& report) {
  for (const auto& [dim, groups] : {std::pair<int64_t, int64_t>{30, 2}, {192, 1}, {4096, 4}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      report.differentiable(
          "gated_rms_norm", fmt::format("2 x 70 x {} in {}", dim, groups),
          [groups = groups](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            // The gate is a slice of a wider projection.
            return {gated_rms_norm(in[0], in[1].narrow(2, 0, in[0].size(2)), w[0], groups, kEps)};
          },
          [groups = groups](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            return {gated_rms_norm_reference(in[0], in[1].narrow(2, 0, in[0].size(2)), w[0], groups,
                                             kEps)};
          },
          {report.random({2, 70, dim}), report.random({2, 70, dim + 8})},
          {1 + report.random({dim}) / 4}, dtype, selftest_bound(dtype));
});

}  // namespace
}  // namespace ceiling
