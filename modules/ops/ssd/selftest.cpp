#include <ATen/TensorOperators.h>

#include "base/error.h"
#include "modules/ops/selftest.h"
#include "modules/ops/ssd/ssd.h"

namespace ceiling {
namespace {

// Widths of the sweep's tiles, one and several groups, documents, a carried state.
const RegisterSelftest kSelftest("ssd", [](SelftestReport& report) {
  struct Shape {
    int64_t batch, seq_len, heads, dim, groups, d_state;
  };
  for (const Shape& s : {Shape{2, 70, 4, 64, 1, 128}, Shape{1, 65, 4, 64, 2, 64},
                         Shape{1, 33, 2, 64, 1, 256}, Shape{3, 1, 4, 24, 1, 16},
                         // Time in segments.
                         Shape{1, 600, 2, 64, 1, 128}, Shape{1, 300, 2, 64, 1, 256},
                         // Of a group's heads no two, and pairs that fill no tile.
                         Shape{1, 200, 3, 64, 1, 128}, Shape{2, 130, 4, 40, 2, 72}}) {
    const Segments segments = make_segments(
        report.random({s.batch, s.seq_len}).gt(1.8).to(at::kInt).cumsum(1).to(at::kInt));
    Segments there = segments;
    for (at::Tensor* x : {&there.document, &there.start, &there.position})
      if (x->defined()) *x = x->to(report.device());
    const SsdOptions options{.form = s.seq_len == 1 ? RetentionForm::kRecurrent
                                                    : RetentionForm::kChunk};
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      report.differentiable(
          "ssd",
          fmt::format("B {} T {} H {} P {} G {} N {}", s.batch, s.seq_len, s.heads, s.dim, s.groups,
                      s.d_state),
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            std::vector<Parameter> wide = w;
            for (Parameter& parameter : wide)
              parameter.value = parameter.value.detach().to(at::kFloat).requires_grad_();
            const auto out = ssd(in[0], in[1], in[2], in[3], {wide[0], wide[1], wide[2]},
                                 in[4].to(at::kFloat), there, options);
            return {out.y, out.state};
          },
          [&](const auto& in, const auto& w) -> std::vector<at::Tensor> {
            const auto out = ssd_reference(in[0], in[1], in[2], in[3], w[0], w[1], w[2], in[4],
                                           segments, options);
            return {out.y, out.state};
          },
          {report.random({s.batch, s.seq_len, s.heads, s.dim}),
           report.random({s.batch, s.seq_len, s.heads}),
           report.random({s.batch, s.seq_len, s.groups, s.d_state}) / 8,
           report.random({s.batch, s.seq_len, s.groups, s.d_state}) / 8,
           report.random({s.batch, s.heads, s.d_state, s.dim})},
          {report.random({s.heads}) / 4, report.random({s.heads}), report.random({s.heads}) - 2},
          dtype, selftest_bound(dtype));
    }
  }
});

}  // namespace
}  // namespace ceiling
