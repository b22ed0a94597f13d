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

SweepOutput sweep(const SweepSetting& setting, Time time, const at::Tensor& query,
                  const at::Tensor& key, const at::Tensor& value, const at::Tensor& state) {
  if (sweep_cpu_supports(setting, query)) return sweep_cpu(setting, time, query, key, value, state);
  if (sweep_cuda_supports(setting, query, value))
    return sweep_cuda(setting, time, query, key, value, state);
  return sweep_aten(setting, time, query, key, value, state);
}

at::Tensor transposed(const at::Tensor& state) {
  return state.defined() ? state.transpose(-1, -2) : at::Tensor();
}

class RetentionFn : public torch::autograd::Function<RetentionFn> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const at::Tensor& log_decay,
                               const std::optional<at::Tensor>& state_in, const at::Tensor* start,
                               RetentionForm form, int64_t chunk) {
    const at::Tensor state = state_in.value_or(at::Tensor());
    const SweepOutput out = sweep({log_decay, *start, form, chunk}, Time::kForward, q, k, v, state);
    ctx->save_for_backward({q, k, v, log_decay, state});
    ctx->saved_data["start"] = *start;
    ctx->saved_data["form"] = static_cast<int64_t>(form);
    ctx->saved_data["chunk"] = chunk;
    ctx->set_materialize_grads(false);
    return {out.out, out.state};
  }

  // README.md, eq. 3: dq is a sweep forward in time, dk and dv are sweeps backward in time.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &log_decay = saved[3],
                     &state = saved[4];
    const SweepSetting setting{log_decay, ctx->saved_data["start"].toTensor(),
                               static_cast<RetentionForm>(ctx->saved_data["form"].toInt()),
                               ctx->saved_data["chunk"].toInt()};
    const at::Tensor d_out = grads[0].defined() ? grads[0] : at::zeros_like(v);
    const at::Tensor& d_state = grads[1];
    const SweepOutput for_v = sweep(setting, Time::kBackward, k, q, d_out, d_state);
    const at::Tensor dq = sweep(setting, Time::kForward, d_out, v, k, transposed(state)).out;
    const at::Tensor dk = sweep(setting, Time::kBackward, v, d_out, q, transposed(d_state)).out;
    at::Tensor d_log_decay;
    if (ctx->needs_input_grad(3)) {
      // A decay at t lies between every source before t and every reader from t on; the final state
      // is a reader after the end.
      const auto dot = [](const at::Tensor& a, const at::Tensor& b) {
        return (a.to(at::kDouble) * b.to(at::kDouble)).sum(-1);
      };
      at::Tensor crossing = (dot(q, dq) - dot(k, dk)).flip(1).cumsum(1).flip(1);  // [B, T, H]
      if (d_state.defined()) {
        const at::Tensor end = sweep(setting, Time::kForward, q, k, v, state).state;
        crossing = crossing + (end.to(at::kDouble) * d_state.to(at::kDouble))
                                  .sum(at::IntArrayRef({-1, -2}))
                                  .unsqueeze(1);
      }
      d_log_decay = (log_decay.dim() == 3 ? crossing : crossing.sum(at::IntArrayRef({0, 1})))
                        .to(log_decay.options());
    }
    return {dq,
            dk,
            for_v.out,
            d_log_decay,
            state.defined() ? for_v.state.to(state.scalar_type()) : at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
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
                          const Segments& segments, RetentionForm form, int64_t chunk) {
  check(q, k, v, log_decay, state, segments, chunk);
  const variable_list out =
      RetentionFn::apply(q, k, v, log_decay, if_defined(state), &segments.start, form, chunk);
  return {out[0], out[1]};
}

}  // namespace ceiling
