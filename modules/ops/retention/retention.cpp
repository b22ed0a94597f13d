#include "modules/ops/retention/retention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/checks.h"
#include "modules/ops/retention/sweep.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class RetentionFn : public torch::autograd::Function<RetentionFn> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const at::Tensor& log_decay,
                               const std::optional<at::Tensor>& state_in, const at::Tensor* start,
                               RetentionForm form, int64_t chunk, const GradientPlace& v_place) {
    const at::Tensor state = state_in.value_or(at::Tensor());
    const SweepOutput out = sweep({log_decay, *start, form, chunk}, Time::kForward, q, k, v, state);
    ctx->save_for_backward({q, k, v, log_decay, state, out.met.entering});
    ctx->saved_data["start"] = *start;
    ctx->saved_data["form"] = static_cast<int64_t>(form);
    ctx->saved_data["chunk"] = chunk;
    ctx->saved_data["v place"] = kept(v_place);
    ctx->set_materialize_grads(false);
    return {out.out, out.state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &log_decay = saved[3],
                     &state = saved[4];
    const SweepSetting setting{log_decay, ctx->saved_data["start"].toTensor(),
                               static_cast<RetentionForm>(ctx->saved_data["form"].toInt()),
                               ctx->saved_data["chunk"].toInt()};
    const at::Tensor d_out = grads[0].defined() ? grads[0] : at::zeros_like(v);
    const at::Tensor place = place_of(ctx->saved_data["v place"]).offer(v.options());
    const SweepGradients d =
        sweep_backward(setting, q, k, v, state, d_out, grads[1], ctx->needs_input_grad(3), 1,
                       {saved[5]}, place.defined() ? place.view(v.sizes()) : place);
    const at::Tensor d_log_decay =
        !d.log_decay.defined() ? at::Tensor()
        : log_decay.dim() == 3 ? d.log_decay.to(log_decay.options())
                               : d.log_decay.sum(at::IntArrayRef({0, 1})).to(log_decay.options());
    const at::Tensor none;
    return {d.q, d.k, d.v, d_log_decay, d.state, none, none, none, none};
  }
};

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
           const at::Tensor& log_decay, const at::Tensor& state, const Segments& segments,
           int64_t chunk) {
  if (q.dim() != 4 || k.sizes() != q.sizes() || v.dim() != 4 ||
      v.sizes().slice(0, 3) != q.sizes().slice(0, 3))
    throw Error("retention: q and k must be [B, T, H, K] and v [B, T, H, V], of equal B, T and H");
  if (q.size(1) < 1) throw Error("retention: a sequence of no tokens");
  if (k.scalar_type() != q.scalar_type() || v.scalar_type() != q.scalar_type())
    throw Error("retention: q, k and v differ in dtype");
  if (k.device() != q.device() || v.device() != q.device())
    throw Error("retention: q, k and v are on different devices");
  const bool per_head = log_decay.dim() == 1 && log_decay.size(0) == q.size(2);
  const bool per_token = log_decay.dim() == 3 && log_decay.sizes() == q.sizes().slice(0, 3);
  if (!per_head && !per_token) throw Error("retention: log_decay must be [H] or [B, T, H]");
  if (state.defined() &&
      (state.dim() != 4 || state.size(0) != q.size(0) || state.size(1) != q.size(2) ||
       state.size(2) != q.size(3) || state.size(3) != v.size(3)))
    throw Error("retention: the state must be [B, H, K, V]");
  if (segments.any() && segments.start.sizes() != q.sizes().slice(0, 2))
    throw Error("retention: the segments must be [B, T], as q is");
  if (chunk < 1) throw Error("retention: chunk {} is not allowed, must be at least 1", chunk);
}

}  // namespace

RetentionOutput retention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& log_decay, const at::Tensor& state,
                          const Segments& segments, RetentionForm form, int64_t chunk,
                          const GradientPlace& v_place) {
  check(q, k, v, log_decay, state, segments, chunk);
  const variable_list out = RetentionFn::apply(q, k, v, log_decay, if_defined(state),
                                               &segments.start, form, chunk, v_place);
  return {out[0], out[1]};
}

}  // namespace ceiling
