#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/causal_conv1d/causal_conv1d.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

// Whole and broken 16-byte pieces, lengths around a task's, short documents and long ones, a
// carried state.
const RegisterSelftest kSelftest("causal_conv1d", [](SelftestReport& report) {
  struct Shape {
    int64_t batch, seq_len, channels, width;
    double above;  // a document starts where a standard normal number is
  };
  for (const Shape& s :
       {Shape{2, 130, 48, 4, 0.5}, Shape{3, 1, 64, 4, 0.5}, Shape{2, 65, 21, 3, 0.5},
        Shape{1, 300, 8, 2, 0.5}, Shape{2, 600, 140, 4, 2.5}, Shape{1, 301, 24, 3, 2}}) {
    const Segments segments = make_segments(
        report.random({s.batch, s.seq_len}).gt(s.above).to(at::kInt).cumsum(1).to(at::kInt));
    Segments there = segments;
    for (at::Tensor* x : {&there.document, &there.start, &there.position})
      if (x->defined()) *x = x->to(report.device());
    for (const bool silu : {true, false})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        report.differentiable(
            "causal_conv1d",
            fmt::format("B {} T {} C {} W {}{}", s.batch, s.seq_len, s.channels, s.width,
                        silu ? " silu" : ""),
            [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
              // x is a slice of a wider projection.
              const auto out =
                  causal_conv1d(in[0].narrow(2, 8, s.channels), w[0], &w[1], in[1], there, silu);
              return {out.y, out.state};
            },
            [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
              const auto out = causal_conv1d_reference(in[0].narrow(2, 8, s.channels), w[0], w[1],
                                                       in[1], segments, silu);
              return {out.y, out.state};
            },
            {report.random({s.batch, s.seq_len, s.channels + 8}),
             report.random({s.batch, s.width - 1, s.channels})},
            {report.random({s.channels, 1, s.width}), report.random({s.channels})}, dtype,
            selftest_bound(dtype));
  }
});

}  // namespace
}  // namespace ceiling
