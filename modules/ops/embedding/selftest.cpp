#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>

#include "base/error.h"
#include "modules/ops/embedding/embedding.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

// Tokens that occur once, often, and over many blocks.
const RegisterSelftest kSelftest("embedding", [](SelftestReport& report) {
  for (const double spread : {0.0, 3.0, 300.0})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const at::Tensor tokens =
          (report.random({3, 500}).abs() * spread).to(at::kInt).clamp_max(499);
      report.differentiable(
          "embedding", fmt::format("1,500 tokens, spread {}", spread),
          [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            return {embedding(in[0], w[0], 1)};
          },
          [](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            return {at::embedding(w[0], in[0])};
          },
          {tokens}, {report.random({500, 130})}, dtype, selftest_bound(dtype));
    }
});

}  // namespace
}  // namespace ceiling
