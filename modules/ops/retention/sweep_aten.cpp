// The sweep in ATen: any dtype and device.
#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/pad.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "modules/ops/checks.h"
#include "modules/ops/retention/sweep.h"

namespace ceiling {

namespace {

// [1 or B, T, H] float64 on the device of `on`.
at::Tensor decays_of_tokens(const at::Tensor& log_decay, const at::Tensor& on) {
  const at::Tensor wide = wide_decays(log_decay, on.device());
  return wide.dim() == 3 ? wide : wide.expand({1, on.size(1), on.size(2)});
}

// Token by token. Forward: S decays, takes in the token, is read. Backward: takes in, is read,
// decays.
SweepOutput stepwise(const SweepSetting& setting, Time time, const at::Tensor& query,
                     const at::Tensor& key, const at::Tensor& value, at::Tensor state) {
  const int64_t batch = query.size(0), seq_len = query.size(1);
  const at::Tensor decay =
      at::exp(decays_of_tokens(setting.log_decay, query)).to(query.scalar_type());
  const at::Tensor zero = at::zeros({}, query.options());
  const auto to_next = [&](int64_t t) {
    state = state * decay.select(1, t).unsqueeze(-1).unsqueeze(-1);
    if (setting.start.defined())
      state =
          at::where(setting.start.select(1, t).to(at::kBool).view({batch, 1, 1, 1}), zero, state);
  };
  const at::Tensor out = at::empty({batch, seq_len, query.size(2), value.size(3)}, query.options());
  for (int64_t step = 0; step < seq_len; ++step) {
    const int64_t t = time == Time::kForward ? step : seq_len - 1 - step;
    if (time == Time::kForward) to_next(t);
    state = at::addcmul(state, key.select(1, t).unsqueeze(-1), value.select(1, t).unsqueeze(-2));
    out.select(1, t).copy_(at::matmul(query.select(1, t).unsqueeze(-2), state).squeeze(-2));
    if (time == Time::kBackward) to_next(t);
  }
  return {out, state};
}

// Products of decays for every chunk, [1 or B, chunks, H, ...]. Tokens that fill up the last chunk
// have decay 1, so a state passes them unchanged.
struct ChunkWeights {
  at::Tensor within;  // [..., C, C]: from token j to token i >= j, 0 elsewhere
  at::Tensor enter;   // [..., C, 1]: from the end of the chunk before to token i
  at::Tensor leave;   // [..., C, 1]: from token j to the last of the chunk
  at::Tensor across;  // [..., 1, 1]: from the end of the chunk before to the last of the chunk
};

ChunkWeights chunk_weights(const SweepSetting& setting, const at::Tensor& query, int64_t chunk,
                           int64_t chunks) {
  const int64_t fill = chunk * chunks - query.size(1);
  const at::Tensor tokens =
      at::constant_pad_nd(decays_of_tokens(setting.log_decay, query), {0, 0, 0, fill});
  // Sums in float64: differences of them keep float32 accuracy.
  const at::Tensor sum =
      tokens.view({tokens.size(0), chunks, chunk, -1}).transpose(2, 3).cumsum(-1);
  const at::Tensor total = sum.narrow(-1, chunk - 1, 1);
  const auto power = [&](const at::Tensor& x) { return at::exp(x.to(query.scalar_type())); };
  ChunkWeights w{power(sum.unsqueeze(-1) - sum.unsqueeze(-2)).tril(), power(sum).unsqueeze(-1),
                 power(total - sum).unsqueeze(-1), power(total).unsqueeze(-1)};
  if (!setting.start.defined()) return w;
  const int64_t batch = query.size(0);
  const at::Tensor document = at::constant_pad_nd(setting.start, {0, fill}).cumsum(-1);
  const at::Tensor of = document.view({batch, chunks, 1, chunk});
  const at::Tensor last = of.narrow(-1, chunk - 1, 1);  // [B, chunks, 1, 1]
  const at::Tensor before = at::constant_pad_nd(last.narrow(1, 0, chunks - 1), {0, 0, 0, 0, 1, 0});
  const auto keep = [](at::Tensor& weight, const at::Tensor& same) {
    weight = at::where(same, weight, at::zeros({}, weight.options()));
  };
  keep(w.within, of.unsqueeze(-1).eq(of.unsqueeze(-2)));
  keep(w.enter, of.eq(before).unsqueeze(-1));
  keep(w.leave, of.eq(last).unsqueeze(-1));
  keep(w.across, last.eq(before).unsqueeze(-1));
  return w;
}

// a b over the last two dimensions, in the dtype of the arithmetic; bfloat16 on a GPU keeps its
// tensor cores, and the sums are float32.
at::Tensor product(const at::Tensor& a, const at::Tensor& b, bool bf16) {
  if (!bf16) return at::matmul(a, b);
  const auto flat = [](const at::Tensor& x) { return x.to(at::kBFloat16).flatten(0, -3); };
  return at::bmm(flat(a), flat(b), at::kFloat)
      .view({a.size(0), a.size(1), a.size(2), a.size(3), b.size(4)});
}

// All chunks at once but for the states between them. Backward in time is the same with the weights
// transposed: what entered a chunk leaves it.
SweepOutput chunked(const SweepSetting& setting, Time time, int64_t chunk, const at::Tensor& query,
                    const at::Tensor& key, const at::Tensor& value, const at::Tensor& state,
                    bool bf16) {
  const int64_t seq_len = query.size(1), chunks = (seq_len + chunk - 1) / chunk;
  const int64_t fill = chunk * chunks - seq_len;
  const auto cut = [&](const at::Tensor& x) {  // [B, T, H, N] -> [B, chunks, H, C, N]
    const at::Tensor full = fill ? at::constant_pad_nd(x, {0, 0, 0, 0, 0, fill}) : x;
    return full.unflatten(1, {chunks, chunk}).transpose(2, 3);
  };
  const at::Tensor q = cut(query), k = cut(key), v = cut(value);
  ChunkWeights w = chunk_weights(setting, query, chunk, chunks);
  if (time == Time::kBackward) {
    w.within = w.within.transpose(-1, -2);
    std::swap(w.enter, w.leave);
  }
  const at::Tensor update =
      product(k.transpose(-1, -2), v * w.leave, bf16);  // [B, chunks, H, M, N]
  const at::Tensor states =
      at::empty({chunks + 1, q.size(0), q.size(2), key.size(3), value.size(3)}, q.options());
  // states[n] enters the chunk visited n-th.
  states[0].copy_(state);
  for (int64_t n = 0; n < chunks; ++n) {
    const int64_t at_chunk = time == Time::kForward ? n : chunks - 1 - n;
    at::Tensor next = states[n + 1];
    at::addcmul_out(next, update.select(1, at_chunk), w.across.select(1, at_chunk), states[n]);
  }
  at::Tensor entering = states.narrow(0, 0, chunks).transpose(0, 1);
  if (time == Time::kBackward) entering = entering.flip(1);
  const at::Tensor scores = product(q, k.transpose(-1, -2), bf16) * w.within;
  const at::Tensor out = at::addcmul(product(scores, v, bf16), product(q, entering, bf16), w.enter);
  return {out.transpose(2, 3).flatten(1, 2).narrow(1, 0, seq_len), states[chunks].clone()};
}

}  // namespace

at::Tensor wide_decays(const at::Tensor& log_decay, at::Device device) {
  if (log_decay.dim() != 1 || !log_decay.is_cpu() || device.is_cpu())
    return log_decay.to(device, at::kDouble);
  const at::Tensor there =
      at::empty(log_decay.sizes(), log_decay.options().dtype(at::kDouble).device(device));
  for (int64_t h = 0; h < log_decay.size(0); ++h)
    there.select(0, h).fill_(log_decay[h].item<double>());
  return there;
}

SweepOutput sweep_aten(const SweepSetting& setting, Time time, const at::Tensor& query,
                       const at::Tensor& key, const at::Tensor& value, const at::Tensor& state) {
  const at::ScalarType wide = wide_type(query);
  const at::Tensor q = query.to(wide), k = key.to(wide), v = value.to(wide);
  const at::Tensor s = state.defined()
                           ? state
                           : at::zeros({q.size(0), q.size(2), k.size(3), v.size(3)}, q.options());
  const int64_t seq_len = q.size(1);
  SweepOutput result;
  if (setting.form == RetentionForm::kRecurrent || seq_len == 1)
    result = stepwise(setting, time, q, k, v, s);
  else
    result = chunked(
        setting, time,
        setting.form == RetentionForm::kParallel ? seq_len : std::min(setting.chunk, seq_len), q, k,
        v, s, query.is_cuda() && query.scalar_type() == at::kBFloat16);
  return {(setting.wide_out ? result.out : result.out.to(value.scalar_type())).contiguous(),
          result.state};
}

}  // namespace ceiling
