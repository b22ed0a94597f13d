#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/rms_norm/rms_norm.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

constexpr double kEps = 1e-6;

// Widths of whole and broken 16-byte pieces, of one warp and of several; more rows than blocks.
const RegisterSelftest kSelftest("rms_norm", [](SelftestReport& report) {
  for (const auto& [rows, dim] :
       {std::pair<int64_t, int64_t>{3, 15}, {700, 96}, {70, 1000}, {33, 4096}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      report.differentiable(
          "rms_norm", fmt::format("add {} x {}", rows, dim),
          [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            const AddRmsNormOutput out = add_rms_norm(in[0], in[1], w[0], kEps);
            return {out.y, out.residual};
          },
          [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            const at::Tensor sum = in[0] + in[1];
            return {rms_norm_reference(sum, w[0], kEps), sum};
          },
          {report.random({rows, dim}), report.random({rows, dim})}, {1 + report.random({dim}) / 4},
          dtype, selftest_bound(dtype));
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    report.differentiable(
        "rms_norm", "beside 70 x 768",
        [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
          const AddRmsNormOutput out = rms_norm_beside(in[0], w[0], kEps);
          return {out.y, out.residual};
        },
        [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
          return {rms_norm_reference(in[0], w[0], kEps), in[0]};
        },
        {report.random({70, 768})}, {1 + report.random({768}) / 4}, dtype, selftest_bound(dtype));
});

}  // namespace
}  // namespace ceiling
