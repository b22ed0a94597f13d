#include <ATen/TensorOperators.h>
#include <ATen/ops/linspace.h>

#include <cmath>

#include "base/error.h"
#include "modules/ops/retention/reference.h"
#include "modules/ops/retention/retention.h"
#include "modules/ops/rotary/rotary.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

struct Shape {
  int64_t batch, seq_len, heads, k_dim, v_dim;
};

void check_shape(SelftestReport& report, const Shape& s, RetentionForm form, bool per_token) {
  const Segments segments = make_segments(
      report.random({s.batch, s.seq_len}).gt(1.8).to(at::kInt).cumsum(1).to(at::kInt));
  Segments there = segments;
  for (at::Tensor* x : {&there.document, &there.start, &there.position})
    if (x->defined()) *x = x->to(report.device());
  const at::Tensor fixed = -at::linspace(0.01, 0.2, s.heads, at::kDouble);
  std::vector<at::Tensor> inputs = {report.random({s.batch, s.seq_len, s.heads, s.k_dim}),
                                    report.random({s.batch, s.seq_len, s.heads, s.k_dim}) /
                                        std::sqrt(static_cast<double>(s.k_dim)),
                                    report.random({s.batch, s.seq_len, s.heads, s.v_dim}),
                                    report.random({s.batch, s.heads, s.k_dim, s.v_dim})};
  if (per_token) inputs.push_back(-0.1 * report.random({s.batch, s.seq_len, s.heads}).abs());
  report.differentiable(
      "retention",
      fmt::format("{} B {} T {} H {} K {} V {}{}",
                  form == RetentionForm::kChunk ? "chunk" : "recurrent", s.batch, s.seq_len,
                  s.heads, s.k_dim, s.v_dim, per_token ? ", decay per token" : ""),
      [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
        const auto out = retention(in[0], in[1], in[2], per_token ? in[4].to(at::kFloat) : fixed,
                                   in[3].to(at::kFloat), there, form, 64);
        return {out.o, out.state};
      },
      [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
        const auto out = retention_reference_by_pairs(in[0], in[1], in[2],
                                                      per_token ? in[4] : fixed, in[3], segments);
        return {out.o, out.state};
      },
      inputs, {}, at::kBFloat16, selftest_bound(at::kBFloat16));
}

// The gradient of v in its place in that of a projection.
void check_place(SelftestReport& report, const Shape& s, RetentionForm form) {
  const at::Tensor decay = -at::linspace(0.01, 0.2, s.heads, at::kDouble);
  const int64_t width = s.heads * s.v_dim;
  const RotaryLayout layout{.n_q_heads = 1, .n_k_heads = 1, .head_dim = 8, .rest = {width, 24}};
  RotaryTable table(rope_frequencies(8, 10000));
  report.differentiable(
      "retention",
      fmt::format("{} B {} T {} H {} K {} V {}, in place",
                  form == RetentionForm::kChunk ? "chunk" : "recurrent", s.batch, s.seq_len,
                  s.heads, s.k_dim, s.v_dim),
      [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
        const RotaryOutput parts = split_rotary(in[2], {}, table, layout);
        const auto out = retention(in[0], in[1], parts.rest[0].unflatten(-1, {s.heads, s.v_dim}),
                                   decay, at::Tensor(), Segments(), form, 64, parts.places[0]);
        return {out.o, parts.rest[1]};
      },
      [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
        const at::Tensor v = in[2].narrow(2, 16, width).unflatten(-1, {s.heads, s.v_dim});
        return {retention_reference_by_pairs(in[0], in[1], v, decay, at::Tensor(), Segments()).o,
                in[2].narrow(2, 16 + width, 24)};
      },
      {report.random({s.batch, s.seq_len, s.heads, s.k_dim}),
       report.random({s.batch, s.seq_len, s.heads, s.k_dim}) /
           std::sqrt(static_cast<double>(s.k_dim)),
       report.random({s.batch, s.seq_len, 16 + width + 24})},
      {}, at::kBFloat16, selftest_bound(at::kBFloat16));
}

// Each width of the kernels' tiles, lengths around the chunk's, documents, a carried state.
const RegisterSelftest kSelftest("retention", [](SelftestReport& report) {
  for (const Shape& s :
       {Shape{2, 33, 2, 64, 64}, Shape{2, 70, 2, 128, 128}, Shape{1, 200, 2, 128, 64},
        Shape{1, 65, 2, 256, 512}, Shape{67, 33, 1, 136, 136}, Shape{2, 40, 2, 24, 40}})
    for (const RetentionForm form : {RetentionForm::kChunk, RetentionForm::kRecurrent})
      check_shape(report, s, form, false);
  // Time in segments, whose states a first pass finds, or the sweep before notes down.
  for (const Shape& s :
       {Shape{1, 600, 2, 128, 64}, Shape{1, 300, 1, 192, 320}, Shape{17, 390, 1, 72, 512}})
    check_shape(report, s, RetentionForm::kChunk, false);
  for (const Shape& s : {Shape{1, 130, 1, 128, 136}, Shape{1, 70, 1, 192, 320}})
    check_shape(report, s, RetentionForm::kChunk, true);
  for (const RetentionForm form : {RetentionForm::kChunk, RetentionForm::kRecurrent})
    for (const Shape& s : {Shape{2, 70, 2, 64, 64}, Shape{2, 70, 2, 256, 128}})
      check_place(report, s, form);
  // More slices of heads than run side by side: blocks share them, and hand on states within a
  // head.
  check_shape(report, {70, 130, 1, 136, 136}, RetentionForm::kChunk, false);
});

}  // namespace
}  // namespace ceiling
