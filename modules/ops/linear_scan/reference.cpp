#include "modules/ops/linear_scan/reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "modules/ops/checks.h"

namespace ceiling {

namespace {

// sqrt(x) whose derivative is 1 / sqrt(max(4 x, 1e-6)).
at::Tensor bounded_sqrt(const at::Tensor& x) {
  const at::Tensor fixed = x.detach();
  return fixed.sqrt() + (x - fixed) / (4 * fixed).clamp_min(1e-6).sqrt();
}

// [B, T, 1] bool: documents start, also at the first token where no state comes in.
at::Tensor starts_of(const at::Tensor& x, const at::Tensor& state, const Segments& segments) {
  at::Tensor starts = segments.any()
                          ? segments.start.to(at::kBool).clone()
                          : at::zeros({x.size(0), x.size(1)}, x.options().dtype(at::kBool));
  if (!state.defined()) starts.select(1, 0).fill_(true);
  return starts.unsqueeze(-1);
}

}  // namespace

LinearScanOutput linear_scan_reference(const at::Tensor& a, const at::Tensor& b,
                                       const at::Tensor& state, const Segments& segments) {
  const at::Tensor starts = starts_of(b, state, segments);
  const at::Tensor decay = a.to(wide_type(b)), add = b.to(wide_type(b));
  const at::Tensor zero = at::zeros_like(add.select(1, 0));
  at::Tensor h = state.defined() ? state.to(add.scalar_type()) : zero;
  std::vector<at::Tensor> all;
  for (int64_t t = 0; t < b.size(1); ++t) {
    h = at::where(starts.select(1, t), zero, decay.select(1, t) * h) + add.select(1, t);
    all.push_back(h);
  }
  return {at::stack(all, 1).to(b.scalar_type()), h.clone()};
}

LinearScanOutput rg_lru_reference(const at::Tensor& x, const at::Tensor& recurrence,
                                  const at::Tensor& input, const at::Tensor& lambda,
                                  const at::Tensor& recurrence_bias, const at::Tensor& input_bias,
                                  const at::Tensor& state, const Segments& segments) {
  const at::ScalarType wide = wide_type(x);
  const at::Tensor r = at::sigmoid(recurrence.to(wide) + recurrence_bias);
  const at::Tensor i = at::sigmoid(input.to(wide) + input_bias);
  const at::Tensor log_a = -8 * r * at::softplus(lambda, 1, /*threshold=*/700);
  const at::Tensor root = bounded_sqrt(-at::expm1(2 * log_a));
  const at::Tensor scale = at::where(starts_of(x, state, segments), at::ones_like(root), root);
  const auto out = linear_scan_reference(at::exp(log_a), scale * i * x.to(wide), state, segments);
  return {out.h.to(x.scalar_type()), out.state};
}

}  // namespace ceiling
