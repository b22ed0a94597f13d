// The only file that knows the signatures of torch's internal flash-attention functions
// (torch 2.11).
#include "modules/ops/causal_attention/packed_attention.h"

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/causal_attention/cudnn_attention.h"
#include "modules/ops/checks.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows one after another where documents are packed, else as they are. The kernels read pieces of
// 16 bytes and do not check.
at::Tensor packed(const at::Tensor& heads, const at::Tensor& bounds) {
  return rows_of_pieces(bounds.defined() ? heads.flatten(0, 1) : heads);
}
std::optional<int64_t> keys_before(int64_t window) {
  return window == kNoWindow ? std::nullopt : std::optional(window - 1);
}

class PackedAttentionFn : public torch::autograd::Function<PackedAttentionFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const at::Tensor* bounds, int64_t max_length,
                            double scale, int64_t window) {
    const at::Tensor q = packed(q_in, *bounds), k = packed(k_in, *bounds),
                     v = packed(v_in, *bounds);
    const auto [out, log_sum_exp, rng_state, unused, debug] = at::_flash_attention_forward(
        q, k, v, if_defined(*bounds), if_defined(*bounds), max_length, max_length,
        /*dropout_p=*/0, /*is_causal=*/true, /*return_debug_mask=*/false, scale,
        keys_before(window), /*window_size_right=*/0);
    ctx->save_for_backward({q, k, v, out, log_sum_exp, *bounds, rng_state, unused});
    ctx->saved_data["max_length"] = max_length;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["window"] = window;
    return out.view(q_in.sizes());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& bounds = saved[5];
    const int64_t max_length = ctx->saved_data["max_length"].toInt();
    const auto sizes = grads[0].sizes();
    const auto [dq, dk, dv] = at::_flash_attention_backward(
        packed(grads[0], bounds), saved[0], saved[1], saved[2], saved[3], saved[4], bounds, bounds,
        max_length, max_length, /*dropout_p=*/0, /*is_causal=*/true, saved[6], saved[7],
        ctx->saved_data["scale"].toDouble(), keys_before(ctx->saved_data["window"].toInt()),
        /*window_size_right=*/0);
    const auto rows = [&](const at::Tensor& x) {
      return bounds.defined() ? x.unflatten(0, {sizes[0], sizes[1]}) : x;
    };
    return {rows(dq), rows(dk), rows(dv), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool packed_attention_supports(const at::Tensor& q) {
  return q.is_cuda() && q.scalar_type() == at::kBFloat16 && q.size(3) % 8 == 0 && q.size(3) <= 256;
}

at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& bounds, int64_t max_length, double scale,
                            int64_t window) {
  if (q.dim() != 4 || k.sizes() != v.sizes() || k.size(0) != q.size(0) || k.size(1) != q.size(1) ||
      k.size(3) != q.size(3) || q.size(2) % k.size(2) != 0)
    throw Error("packed_attention: q must be [B, T, H, head_dim], k and v [B, T, H_kv, head_dim]");
  if (window < 1)
    throw Error("packed_attention: window {} is not allowed, must be at least 1", window);
  if (cudnn_attention_supports(q, max_length))
    return cudnn_attention(q, k, v, bounds, max_length, scale, window);
  return PackedAttentionFn::apply(q, k, v, &bounds, max_length, scale,
                                  window < max_length ? window : kNoWindow);
}

}  // namespace ceiling
