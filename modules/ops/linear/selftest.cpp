#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "modules/ops/linear/gemm.h"
#include "modules/ops/linear/linear.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

using Tensors = std::vector<at::Tensor>;

// Every kernel that a product may be made by gives the same bits as the first: which one turns out
// to be the fastest must not change a run's numbers.
void compare_candidates(SelftestReport& report, const std::string& shape, const at::Tensor& a,
                        const at::Tensor& b, const at::Tensor& addend) {
  Tensors results;
  const auto out = [&] {
    return addend.defined() ? addend.clone() : at::zeros({a.size(0), b.size(1)}, a.options());
  };
  const int n = n_gemm_candidates(out(), a, b, addend);
  for (int candidate = 0; candidate < n; ++candidate) {
    results.push_back(out());
    gemm_by_candidate(results.back(), a, b, addend.defined() ? results.back() : addend, candidate);
  }
  if (n > 1)
    report.compare("linear", shape, {results.begin() + 1, results.end()},
                   Tensors(results.size() - 1, results[0]), 0);
}

// Widths that the library takes and that it does not, rows of whole tiles and of broken ones; many
// rows, over which the sums of the weight's gradient are cut into parts.
const RegisterSelftest kSelftest("linear", [](SelftestReport& report) {
  for (const auto& [rows, in, out] :
       {std::array<int64_t, 3>{3, 5, 7}, {70, 64, 96}, {301, 1000, 264}, {4096, 128, 256}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      report.differentiable(
          "linear", fmt::format("add {} x {} to {}", rows, in, out),
          [](const Tensors& x, const std::vector<Parameter>& w) -> Tensors {
            return {linear(x[0], w[0]), linear_add(x[0], w[0], x[1])};
          },
          [](const Tensors& x, const Tensors& w) -> Tensors {
            const at::Tensor y = at::mm(x[0], w[0].t());
            return {y, x[1] + y};
          },
          {report.random({rows, in}), report.random({rows, out})}, {report.random({out, in})},
          dtype, selftest_bound(dtype));
  for (const auto& [rows, in, out] : {std::array<int64_t, 3>{2048, 512, 768}, {16384, 768, 768}}) {
    const auto random = [&](int64_t width) {
      return report.random({rows, width}).to(report.device(), at::kBFloat16);
    };
    const at::Tensor x = random(in), dy = random(out),
                     w = report.random({out, in}).to(report.device(), at::kBFloat16);
    const std::string shape = fmt::format("{} x {} to {}", rows, in, out);
    compare_candidates(report, shape + ", any kernel", x, w.t(), {});
    compare_candidates(report, shape + " add, any kernel", x, w.t(), dy);
    compare_candidates(report, shape + " dx, any kernel", dy, w, {});
    compare_candidates(report, shape + " dw, any kernel", dy.t(), x, w.to(at::kFloat));
  }
});

}  // namespace
}  // namespace ceiling
