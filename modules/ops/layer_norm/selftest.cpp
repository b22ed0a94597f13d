#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/layer_norm/layer_norm.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

constexpr double kEps = 1e-5;

// Widths of whole and broken 16-byte pieces, of one warp and of several; more rows than blocks; a
// mean that is large beside the deviation.
const RegisterSelftest kSelftest("layer_norm", [](SelftestReport& report) {
  for (const auto& [rows, dim] :
       {std::pair<int64_t, int64_t>{3, 15}, {700, 96}, {70, 1000}, {33, 4096}})
    for (const bool biased : {true, false})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        report.differentiable(
            "layer_norm", fmt::format("{} x {}{}", rows, dim, biased ? " bias" : ""),
            [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
              return {layer_norm(in[0], w[0], biased ? &w[1] : nullptr, kEps)};
            },
            [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
              return {layer_norm_reference(in[0], w[0], biased ? w[1] : at::Tensor(), kEps)};
            },
            {report.random({rows, dim}) + 3 * report.random({rows, 1})},
            biased ? SelftestReport::Tensors{1 + report.random({dim}) / 4, report.random({dim})}
                   : SelftestReport::Tensors{1 + report.random({dim}) / 4},
            dtype, selftest_bound(dtype));
});

}  // namespace
}  // namespace ceiling
