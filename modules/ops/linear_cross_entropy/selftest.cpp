#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

const RegisterSelftest kSelftest("linear_cross_entropy", [](SelftestReport& report) {
  // The last two: rows that are kept in shared memory, and longer ones.
  for (const auto& [rows, vocab_size] : {std::pair<int64_t, int64_t>{101, 101},
                                         {128, 101},
                                         {5003, 5001},
                                         {5008, 5001},
                                         {57600, 57590}})
    for (const auto& [dtype, cap] : {std::pair{at::kFloat, 0.0},
                                     {at::kBFloat16, 0.0},
                                     {at::kFloat, 5.0},
                                     {at::kBFloat16, 5.0}}) {
      const at::Tensor targets =
          (report.random({70}).abs() * 1e6).to(at::kInt).remainder(vocab_size + 1) - 1;
      const LinearCrossEntropyOptions options{.vocab_size = vocab_size,
                                              .scale = 1.0 / 70,
                                              .z_loss = 0.1,
                                              .logit_cap = cap,
                                              .chunk = 32};
      report.differentiable(
          "linear_cross_entropy",
          fmt::format("70 x 64 x {} of {}{}", vocab_size, rows, cap > 0 ? " capped" : ""),
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            return {linear_cross_entropy(in[0], w[0], targets.to(report.device()), options).loss};
          },
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            return {linear_cross_entropy_reference(in[0], w[0], targets, options)};
          },
          {report.random({70, 64})}, {0.3 * report.random({rows, 64})}, dtype,
          selftest_bound(dtype));
    }
});

}  // namespace
}  // namespace ceiling
