#include "modules/layers/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "modules/ops/causal_attention/causal_attention.h"
#include "modules/ops/causal_attention/packed_attention.h"
#include "modules/ops/causal_attention/without_cudnn.h"
#include "modules/ops/linear/linear.h"

namespace ceiling {

namespace {

bool plain_causal(const MixContext& context) {
  return !context.segments.any() && !context.carried.defined();
}

// [B, cached + T] int32: the document of each key; -1 for cached ones of an earlier document.
at::Tensor key_documents(const MixContext& context, int64_t batch, int64_t seq_len, int64_t cached,
                         const at::Device& device) {
  const Segments& segments = context.segments;
  if (segments.any() && cached == 0) return segments.document;
  const auto ints = at::TensorOptions().dtype(at::kInt).device(device);
  const at::Tensor of_cached =
      context.carried.defined()
          ? at::arange(cached, ints).lt(cached - context.carried.view({-1, 1})).to(at::kInt).neg()
          : at::zeros({batch, cached}, ints);
  return at::cat(
      {of_cached, segments.any() ? segments.document : at::zeros({batch, seq_len}, ints)}, 1);
}

// Which of the keys (`cached` ones, at most window - 1, then the T new ones) each query sees.
// Undefined if plain causal will do.
at::Tensor make_mask(const MixContext& context, int64_t batch, int64_t seq_len, int64_t cached,
                     int64_t window, const at::Device& device) {
  const bool plain = plain_causal(context), windowed = cached + seq_len > window;
  if (plain && (seq_len == 1 || (cached == 0 && !windowed))) return {};
  const auto ints = at::TensorOptions().dtype(at::kInt).device(device);
  const at::Tensor query = at::arange(seq_len, ints).view({1, 1, seq_len, 1});
  const at::Tensor key = at::arange(cached + seq_len, ints).view({1, 1, 1, cached + seq_len});
  at::Tensor seen = key.le(query + cached);
  if (windowed) seen = seen & key.gt(query + (cached - window));
  if (plain) return seen;
  const at::Tensor document = key_documents(context, batch, seq_len, cached, device);
  return seen & document.view({batch, 1, 1, -1})
                    .eq(document.narrow(1, cached, seq_len).reshape({batch, 1, seq_len, 1}));
}

// Appends `fresh` [B, T, H, K] to `held`, whose second dimension may have room. In place where no
// gradient is wanted: one allocation per doubling instead of a copy per token.
at::Tensor append(at::Tensor& held, int64_t length, const at::Tensor& fresh, int64_t batch_length) {
  if (at::GradMode::is_enabled()) {
    held = held.defined() ? at::cat({held.narrow(1, 0, length), fresh}, 1) : fresh;
    return held;
  }
  if (!held.defined() || held.size(1) < batch_length) {
    const int64_t room =
        std::max<int64_t>(batch_length, held.defined() ? 2 * held.size(1) : batch_length + 64);
    at::Tensor larger =
        at::empty({fresh.size(0), room, fresh.size(2), fresh.size(3)}, fresh.options());
    if (length > 0) larger.narrow(1, 0, length).copy_(held.narrow(1, 0, length));
    held = larger;
  }
  held.narrow(1, length, fresh.size(1)).copy_(fresh);
  return held.narrow(1, 0, batch_length);
}

// The same with a window: -> [B, at most window - 1 + T, H, K]. What no later token sees is dropped
// when there is no room left, so that the cost of moving the rest is spread over many tokens.
at::Tensor append_windowed(at::Tensor& held, int64_t& length, const at::Tensor& fresh,
                           int64_t window) {
  const int64_t seq_len = fresh.size(1), seen = std::min(length, window - 1);
  if (!at::GradMode::is_enabled() && held.defined() && length + seq_len <= held.size(1)) {
    held.narrow(1, length, seq_len).copy_(fresh);
    length += seq_len;
    return held.narrow(1, length - seq_len - seen, seen + seq_len);
  }
  const at::Tensor all =
      seen > 0 ? at::cat({held.narrow(1, length - seen, seen), fresh}, 1) : fresh;
  const int64_t kept = std::min(seen + seq_len, window - 1);
  const at::Tensor last = all.narrow(1, seen + seq_len - kept, kept);
  if (at::GradMode::is_enabled()) {
    held = last;
  } else {
    const int64_t room = std::min(2 * window, 2 * kept + 64);
    held = at::empty({fresh.size(0), room, fresh.size(2), fresh.size(3)}, fresh.options());
    held.narrow(1, 0, kept).copy_(last);
  }
  length = kept;
  return all;
}

// [B, T, H, K] queries, [B, cached + T, H_kv, K] keys and values -> [B, T, H, K]
at::Tensor mix(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const MixContext& context, int64_t cached, int64_t window) {
  const int64_t batch = q.size(0), seq_len = q.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  if (q.device().is_cpu()) {
    const at::Tensor document = plain_causal(context)
                                    ? at::Tensor()
                                    : key_documents(context, batch, seq_len, cached, q.device());
    return causal_attention(q, k, v, document, scale, window);
  }
  const at::Tensor& bounds = context.segments.bounds;
  const bool worth = bounds.defined() || (plain_causal(context) && seq_len > window);
  if (cached == 0 && worth && packed_attention_supports(q))
    return packed_attention(q, k, v, bounds, seq_len, scale, window);
  if (!context.attention_mask.defined() || context.attention_window != window) {
    context.attention_mask = make_mask(context, batch, seq_len, cached, window, q.device());
    context.attention_window = window;
  }
  const bool has_mask = context.attention_mask.defined();
  // cuDNN plans anew for each length, which costs more than one token's attention.
  const WithoutCudnn decoding(cached > 0 || seq_len == 1);
  return at::scaled_dot_product_attention(
             q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
             has_mask ? std::optional<at::Tensor>(context.attention_mask) : std::nullopt,
             /*dropout_p=*/0.0,
             /*is_causal=*/!has_mask && seq_len > 1, /*scale=*/std::nullopt,
             /*enable_gqa=*/k.size(2) != q.size(2))
      .transpose(1, 2);
}

}  // namespace

Attention::Attention(const AttentionOptions& options)
    : options_(options),
      rotary_(rope_frequencies(options.rotary_dim > 0 ? options.rotary_dim : options.head_dim,
                               options.rope_base)),
      qkv_(parameter(
          "qkv.weight",
          {(options.n_heads + 2 * options.n_kv_heads) * options.head_dim, options.d_model},
          {.init = options.qkv_init})),
      out_(parameter("out.weight", {options.d_model, options.n_heads * options.head_dim},
                     {.init = options.out_init})),
      out_bias_(options.out_bias ? &parameter("out.bias", {options.d_model}, {.decay = false})
                                 : nullptr) {}

at::Tensor Attention::forward(const at::Tensor& x, const MixContext& context, State* state) {
  const int64_t batch = x.size(0), seq_len = x.size(1);
  const bool windowed = options_.window != kNoWindow;
  const int64_t held = state ? state->length : 0,
                cached = windowed ? std::min(held, options_.window - 1) : held;
  const RotaryOutput heads = split_rotary(linear(x, qkv_), context.position, rotary_,
                                          {.n_q_heads = options_.n_heads,
                                           .n_k_heads = options_.n_kv_heads,
                                           .head_dim = options_.head_dim,
                                           .rest = {options_.n_kv_heads * options_.head_dim},
                                           .rotary_dim = options_.rotary_dim},
                                          context.position_bound);
  at::Tensor k = heads.k;
  at::Tensor v = heads.rest[0].unflatten(-1, {options_.n_kv_heads, options_.head_dim});
  if (state) {
    state->tensors.resize(2);
    for (auto& [tensor, fresh] : {std::pair{&state->tensors[0], &k}, {&state->tensors[1], &v}}) {
      state->length = held;
      if (windowed) {
        *fresh = append_windowed(*tensor, state->length, *fresh, options_.window);
      } else {
        *fresh = append(*tensor, held, *fresh, held + seq_len);
        state->length += seq_len;
      }
    }
  }
  const at::Tensor y = mix(heads.q, k, v, context, cached, options_.window);
  return linear(y.reshape({batch, seq_len, options_.n_heads * options_.head_dim}), out_, out_bias_);
}

double Attention::mixing_flops_per_token(int64_t seq_len) const {
  // Scores and weighted sum: 2 products of 2 FLOPs, over (T + 1) / 2 keys on average; with a window
  // W the first W tokens see so many of W, the others W each.
  const auto n = static_cast<double>(seq_len),
             w = static_cast<double>(std::min(seq_len, options_.window));
  const double keys = w * (n - (w - 1) / 2) / n;
  return 4.0 * static_cast<double>(options_.n_heads * options_.head_dim) * keys;
}

double Attention::state_bytes(int64_t n_tokens, int64_t element_bytes) const {
  const int64_t held =
      options_.window == kNoWindow ? n_tokens : std::min(n_tokens, options_.window - 1);
  return 2.0 * static_cast<double>(options_.n_kv_heads * options_.head_dim * held * element_bytes);
}

}  // namespace ceiling
