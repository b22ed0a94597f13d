#include "modules/ops/selftest.h"

#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/linear_scan/linear_scan.h"
#include "modules/ops/linear_scan/reference.h"

namespace ceiling {
namespace {

// Lengths around the tile's and one that is cut into segments; widths of whole and broken pairs;
// short documents and long ones.
const RegisterSelftest kSelftest("linear_scan", [](SelftestReport& report) {
  struct Shape {
    int64_t batch, seq_len, dim;
    double above;  // a document starts where a standard normal number is
  };
  for (const Shape& s : {Shape{2, 1, 64, 1.8}, Shape{3, 65, 130, 1.8}, Shape{2, 1100, 33, 1.8},
                         Shape{2, 1100, 70, 3}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const Segments segments = make_segments(
          report.random({s.batch, s.seq_len}).gt(s.above).to(at::kInt).cumsum(1).to(at::kInt));
      Segments there = segments;
      for (at::Tensor* x : {&there.document, &there.start, &there.position})
        if (x->defined()) *x = x->to(report.device());
      const auto random = [&] { return report.random({s.batch, s.seq_len, s.dim}); };
      report.differentiable(
          "linear_scan", fmt::format("rg_lru B {} T {} D {}", s.batch, s.seq_len, s.dim),
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            const auto out = rg_lru(in[0], in[1], in[2], {w[0], w[1], w[2]}, in[3], there);
            return {out.h, out.state};
          },
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            const auto out =
                rg_lru_reference(in[0], in[1], in[2], w[0], w[1], w[2], in[3], segments);
            return {out.h, out.state};
          },
          {random(), random(), random(), report.random({s.batch, s.dim})},
          {report.random({s.dim}) - 4, report.random({s.dim}), report.random({s.dim})}, dtype,
          selftest_bound(dtype));
    }
});

}  // namespace
}  // namespace ceiling
