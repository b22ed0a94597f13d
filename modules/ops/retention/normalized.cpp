#include "modules/ops/retention/normalized.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "modules/ops/checks.h"
#include "modules/ops/retention/sweep.h"

namespace ceiling {

namespace {

// gamma^n for n [...]: [H, ...], in the dtype of the arithmetic.
at::Tensor powers(const at::Tensor& log_decay, const at::Tensor& n, const at::Tensor& like) {
  const at::Tensor exponent =
      wide_decays(log_decay, like.device()).view(std::vector<int64_t>(1, -1));
  at::Tensor shaped = exponent;
  for (int64_t i = 0; i < n.dim(); ++i) shaped = shaped.unsqueeze(-1);
  return at::exp(shaped * n.to(at::kDouble).unsqueeze(0)).to(wide_type(like));
}

at::Tensor heads_first(const at::Tensor& x) {
  return x.to(wide_type(x)).transpose(1, 2);
}  // [B, H, T, N]

// Sum of decays that token t of its document sees: [B or 1, T, H].
at::Tensor decay_sums(const at::Tensor& log_decay, const at::Tensor& carried,
                      const Segments& segments, const at::Tensor& q) {
  const auto wide = at::TensorOptions().dtype(at::kDouble).device(q.device());
  const at::Tensor n = segments.any() ? segments.position.to(at::kDouble)
                                      : at::arange(q.size(1), wide).unsqueeze(0);  // [B or 1, T]
  const at::Tensor log_gamma = wide_decays(log_decay, q.device());
  const at::Tensor power = at::exp((n + 1).unsqueeze(-1) * log_gamma);  // [B or 1, T, H]
  at::Tensor sum = (1 - power) / (1 - at::exp(log_gamma));
  if (carried.defined()) {
    at::Tensor from_before = power * carried.to(at::kDouble).unsqueeze(1);
    if (segments.any()) from_before = from_before * segments.document.eq(0).unsqueeze(-1);
    sum = sum + from_before;
  }
  return sum;
}

}  // namespace

NormalizedRetentionOutput normalized_retention_recurrent(const at::Tensor& q, const at::Tensor& k,
                                                         const at::Tensor& v,
                                                         const at::Tensor& log_decay,
                                                         const NormalizedRetentionState& state,
                                                         const Segments& segments, int64_t chunk) {
  at::Tensor plain;
  if (state.kv.defined()) plain = state.kv * state.scale.sqrt().unsqueeze(-1).unsqueeze(-1);
  const RetentionOutput out =
      retention(q, k, v, log_decay, plain, segments,
                q.size(1) == 1 ? RetentionForm::kRecurrent : RetentionForm::kChunk, chunk);
  const at::Tensor sums =
      decay_sums(log_decay, state.scale, segments, q).expand({q.size(0), q.size(1), q.size(2)});
  const at::Tensor last = sums.select(1, -1).to(out.state.scalar_type());  // [B, H]
  return {
      (out.o.to(wide_type(q)) * sums.rsqrt().to(wide_type(q)).unsqueeze(-1)).to(v.scalar_type()),
      {out.state * last.rsqrt().unsqueeze(-1).unsqueeze(-1), last}};
}

at::Tensor normalized_retention_parallel(const at::Tensor& q, const at::Tensor& k,
                                         const at::Tensor& v, const at::Tensor& log_decay,
                                         const Segments& segments) {
  const at::Tensor t =
      at::arange(q.size(1), at::TensorOptions().dtype(at::kLong).device(q.device()));
  const at::Tensor distance = t.unsqueeze(1) - t.unsqueeze(0);
  at::Tensor decay = powers(log_decay, distance.clamp_min(0), q) * distance.ge(0);  // [H, T, T]
  if (segments.any()) {
    const at::Tensor same = segments.document.unsqueeze(2).eq(segments.document.unsqueeze(1));
    decay = decay.unsqueeze(0) * same.unsqueeze(1);  // [B, H, T, T]
  }
  decay = decay / decay.sum(-1, true).sqrt();
  at::Tensor scores = at::matmul(heads_first(q), heads_first(k).transpose(-1, -2)) * decay;
  scores = scores / scores.detach().abs().sum(-1, true).clamp(1, 5e4);
  return at::matmul(scores, heads_first(v)).transpose(1, 2).to(v.scalar_type());
}

at::Tensor normalized_retention_chunk(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& log_decay, const Segments& segments,
                                      int64_t chunk) {
  if (segments.any())
    throw Error(
        "retention: the torchscale dialect's chunk form knows no document boundaries; set "
        "model.form: recurrent or parallel, or data.cross_document: allow");
  const int64_t seq_len = q.size(1), chunks = (seq_len + chunk - 1) / chunk;
  const auto cut = [&](const at::Tensor& x) {  // [B, T, H, N] -> [B, chunks, H, C, N]
    return at::constant_pad_nd(x.to(wide_type(x)), {0, 0, 0, 0, 0, chunk * chunks - seq_len})
        .unflatten(1, {chunks, chunk})
        .transpose(2, 3);
  };
  const at::Tensor qc = cut(q), kc = cut(k), vc = cut(v);
  const at::Tensor t = at::arange(chunk, at::TensorOptions().dtype(at::kLong).device(q.device()));
  const at::Tensor distance = t.unsqueeze(1) - t.unsqueeze(0);
  const at::Tensor decay =
      powers(log_decay, distance.clamp_min(0), q) * distance.ge(0);          // [H, C, C]
  const at::Tensor row = decay.sum(-1, true).sqrt();                         // [H, C, 1]
  const at::Tensor last_row = decay.select(1, -1);                           // [H, C]
  const at::Tensor last_sum = last_row.sum(-1).unsqueeze(-1).unsqueeze(-1);  // [H, 1, 1]
  at::Tensor scores = at::matmul(qc, kc.transpose(-1, -2)) * (decay / row);
  const at::Tensor inner_scale = scores.detach().abs().sum(-1, true).clamp_min(1);
  const at::Tensor inner = at::matmul(scores / inner_scale, vc);
  const at::Tensor update =
      at::matmul(kc.transpose(-1, -2), vc * (last_row.unsqueeze(-1) / last_sum));
  const at::Tensor across =
      powers(log_decay, at::ones({1, 1}, t.options()) * chunk, q);  // [H, 1, 1]
  at::Tensor state = at::zeros({q.size(0), q.size(2), q.size(3), v.size(3)}, qc.options());
  at::Tensor scale = at::ones({q.size(0), q.size(2), 1, 1}, qc.options());
  std::vector<at::Tensor> states, scales;
  for (int64_t i = 0; i < chunks; ++i) {
    states.push_back(state / scale);
    scales.push_back(scale);
    state = state * across + update.select(1, i);
    scale = std::get<0>(state.detach().abs().sum(-2, true).max(-1, true)).clamp_min(1);
  }
  const at::Tensor cross_scale = at::stack(scales, 1), entering = at::stack(states, 1);
  const at::Tensor read = powers(log_decay, t + 1, q).unsqueeze(-1) * last_sum / row;  // [H, C, 1]
  const at::Tensor cross = at::matmul(qc * read, entering);
  const at::Tensor all = at::maximum(inner_scale, cross_scale);
  const at::Tensor out = inner * (inner_scale / all) + cross * (cross_scale / all);
  return out.transpose(2, 3).flatten(1, 2).narrow(1, 0, seq_len).to(v.scalar_type());
}

}  // namespace ceiling
