#include "modules/ops/selftest.h"
#include "base/error.h"
#include "modules/ops/gated/gated.h"

namespace ceiling {
namespace {

const RegisterSelftest kSelftest("gated", [](SelftestReport& report) {
  for (const int64_t width : {1, 15, 1000})
    for (const Activation activation :
         {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        report.differentiable(
            "gated", fmt::format("70 x {}, activation {}", width, static_cast<int>(activation)),
            [=](const auto& in, const auto&) -> std::vector<at::Tensor> {
              return {gated(in[0], activation)};
            },
            [=](const auto& in, const auto&) -> std::vector<at::Tensor> {
              return {gated_reference(in[0], activation)};
            },
            {report.random({70, 2 * width})}, {}, dtype, selftest_bound(dtype));
});

}  // namespace
}  // namespace ceiling
