#include "modules/ops/ssd/ssd.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/ssd/cuda.h"
#include "modules/ops/ssd/inputs.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Saved : torch::CustomClassHolder {
  SsdOptions options;
  at::Tensor start;  // or undefined
  at::Tensor a_log_grad, d_grad, dt_bias_grad;
};

// Delta x and Delta A, which the sweeps of both passes take.
void prepare(SsdInputs& in, const at::Tensor& v) {
  in.p.v = v.mutable_data_ptr();
  if (in.cpu())
    at::parallel_for(0, in.tokens(), row_grain(in.p.heads * in.p.dim),
                     [&](int64_t begin, int64_t end) { ssd_prepare(in.p, begin, end); });
  else
    launch(ssd_prepare_cuda, in.p, in.x);
}

SweepOutput forward_of(SsdInputs& in) {
  if (ssd_chunks_forward_supports(in)) return ssd_chunks_forward(in);
  const at::Tensor v = at::empty(in.x.sizes(), in.x.options());
  prepare(in, v);
  SweepSetting setting = in.setting();
  setting.wide_out = in.cpu();  // rounded once, after the skip
  const SweepOutput out = sweep(setting, Time::kForward, of_heads(in.c, in.heads()),
                                of_heads(in.b, in.heads()), v, in.state);
  const at::Tensor y = out.out.scalar_type() == in.x.scalar_type() ? out.out : at::empty_like(v);
  in.p.o = out.out.const_data_ptr(), in.p.y = y.mutable_data_ptr();
  if (in.cpu())
    at::parallel_for(0, in.tokens(), row_grain(in.p.heads * in.p.dim),
                     [&](int64_t begin, int64_t end) { ssd_skip(in.p, begin, end); });
  else
    launch(ssd_skip_cuda, in.p, in.x);
  return {y, out.state, out.met};
}

SsdGradients backward_of(SsdInputs& in, const at::Tensor& dy, const at::Tensor& d_state,
                         const SweepStates& met) {
  if (ssd_chunks_backward_supports(in)) return ssd_chunks_backward(in, dy, d_state, met);
  const at::Tensor v = at::empty(in.x.sizes(), in.x.options());
  prepare(in, v);
  const SweepGradients through = sweep_backward(
      in.setting(), of_heads(in.c, in.heads()), of_heads(in.b, in.heads()), v, in.state, dy,
      d_state, /*needs_log_decay=*/true, in.heads() / in.b.size(2), met);
  SsdGradients grads;
  grads.x = at::empty_like(v), grads.dt = at::empty(in.dt.sizes(), v.options());
  grads.b = through.k, grads.c = through.q, grads.state = through.state;
  const at::Tensor dy_rows = flat_rows(dy), dv = through.v.contiguous(),
                   d_log_decay = through.log_decay.contiguous();
  SsdParams& p = in.p;
  // On a GPU as many teams of each head as fill an H100.
  p.partials = in.cpu() ? (in.tokens() + kSsdBlock - 1) / kSsdBlock
                        : std::min(in.tokens(), (132 * 8 * 32 + p.heads - 1) / p.heads);
  const at::Tensor partial = at::empty({p.partials, 3, p.heads}, in.log_decay.options());
  p.dy = rows_of(dy_rows), p.dv = dv.const_data_ptr();
  p.d_log_decay = d_log_decay.const_data_ptr<double>();
  p.dx = grads.x.mutable_data_ptr(), p.ddt = grads.dt.mutable_data_ptr(),
  p.partial = partial.mutable_data_ptr();
  if (in.cpu())
    at::parallel_for(0, p.partials, 1,
                     [&](int64_t begin, int64_t end) { ssd_backward(p, begin, end); });
  else
    launch(ssd_backward_cuda, p, in.x);
  grads.weights = partial.sum(0);
  return grads;
}

class SsdFn : public torch::autograd::Function<SsdFn> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& dt,
                               const at::Tensor& b, const at::Tensor& c, const at::Tensor& a_log,
                               const at::Tensor& d, const at::Tensor& dt_bias,
                               const std::optional<at::Tensor>& state_in,
                               c10::intrusive_ptr<Saved> saved) {
    const at::Tensor state = state_in.value_or(at::Tensor());
    SsdInputs in(x, dt, b, c, a_log, d, dt_bias, state, saved->start, saved->options);
    const SweepOutput out = forward_of(in);
    ctx->save_for_backward({x, dt, b, c, a_log, d, dt_bias, state, out.met.entering});
    ctx->saved_data["saved"] = c10::IValue::make_capsule(saved);
    ctx->set_materialize_grads(false);
    return {out.out, out.state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list kept = ctx->get_saved_variables();
    const auto saved =
        c10::static_intrusive_pointer_cast<Saved>(ctx->saved_data["saved"].toCapsule());
    SsdInputs in(kept[0], kept[1], kept[2], kept[3], kept[4], kept[5], kept[6], kept[7],
                 saved->start, saved->options);
    const at::Tensor dy = grads[0].defined() ? grads[0] : at::zeros(in.x.sizes(), in.x.options());
    const SsdGradients got = backward_of(in, dy, grads[1], {kept[8]});
    saved->a_log_grad.add_(got.weights[0]), saved->d_grad.add_(got.weights[1]),
        saved->dt_bias_grad.add_(got.weights[2]);
    const at::Tensor none;
    return {got.x, got.dt, got.b, got.c, none, none, none, got.state, none};
  }
};

// Where no kernel is: the same from differentiable pieces.
SsdOutput composed(const at::Tensor& x, const at::Tensor& dt, const at::Tensor& b,
                   const at::Tensor& c, const SsdParameters& parameters, const at::Tensor& state,
                   const Segments& segments, const SsdOptions& options) {
  const at::ScalarType wide = wide_type(x);
  const at::Tensor delta = at::clamp(at::softplus(dt.to(wide) + use(parameters.dt_bias)),
                                     options.dt_min, options.dt_max);
  const RetentionOutput out = retention(
      of_heads(c, x.size(2)), of_heads(b, x.size(2)), (delta.unsqueeze(-1) * x).to(x.scalar_type()),
      -at::exp(use(parameters.a_log)) * delta, state, segments, options.form, options.chunk);
  return {(out.o + use(parameters.d).unsqueeze(-1) * x).to(x.scalar_type()), out.state};
}

void check(const at::Tensor& x, const at::Tensor& dt, const at::Tensor& b, const at::Tensor& c,
           const SsdParameters& parameters, const at::Tensor& state, const Segments& segments,
           const SsdOptions& options) {
  if (x.dim() != 4 || x.size(1) < 1)
    throw Error("ssd: x must be [B, T, H, P] with at least one token");
  const int64_t heads = x.size(2);
  if (dt.sizes() != x.sizes().slice(0, 3))
    throw Error("ssd: dt must be [B, T, H], a time step for each token and head of x");
  if (b.dim() != 4 || c.sizes() != b.sizes() || b.sizes().slice(0, 2) != x.sizes().slice(0, 2))
    throw Error("ssd: b and c must be [B, T, G, N], of the B and T of x");
  if (b.size(2) < 1 || heads % b.size(2) != 0)
    throw Error("ssd: {} groups do not divide {} heads", b.size(2), heads);
  if (state.defined() &&
      (state.dim() != 4 || state.size(0) != x.size(0) || state.size(1) != heads ||
       state.size(2) != b.size(3) || state.size(3) != x.size(3)))
    throw Error("ssd: the state must be [B, H, N, P]");
  if (segments.any() && segments.start.sizes() != x.sizes().slice(0, 2))
    throw Error("ssd: the segments must be [B, T], as x is");
  if (options.chunk < 1)
    throw Error("ssd: chunk {} is not allowed, must be at least 1", options.chunk);
  for (const at::Tensor& other : {dt, b, c}) {
    if (other.scalar_type() != x.scalar_type()) throw Error("ssd: x, dt, b and c differ in dtype");
    if (other.device() != x.device()) throw Error("ssd: x, dt, b and c are on different devices");
  }
  for (const Parameter* parameter : {&parameters.a_log, &parameters.d, &parameters.dt_bias}) {
    const at::Tensor& value = parameter->value;
    if (value.dim() != 1 || value.size(0) != heads)
      throw Error("ssd: A_log, D and dt_bias must be [H], with the {} heads of x", heads);
    if (value.scalar_type() != wide_type(x) || value.device() != x.device())
      throw Error("ssd: A_log, D and dt_bias must be {} on {}", c10::toString(wide_type(x)),
                  x.device().str());
  }
}

}  // namespace

SsdOutput ssd(const at::Tensor& x, const at::Tensor& dt, const at::Tensor& b, const at::Tensor& c,
              const SsdParameters& parameters, const at::Tensor& state, const Segments& segments,
              const SsdOptions& options) {
  check(x, dt, b, c, parameters, state, segments, options);
  if (!x.device().is_cpu() && x.scalar_type() == at::kDouble)
    return composed(x, dt, b, c, parameters, state, segments, options);
  auto saved = c10::make_intrusive<Saved>();
  saved->options = options, saved->start = segments.start;
  saved->a_log_grad = parameters.a_log.grad, saved->d_grad = parameters.d.grad,
  saved->dt_bias_grad = parameters.dt_bias.grad;
  const variable_list out = SsdFn::apply(x, dt, b, c, parameters.a_log.value, parameters.d.value,
                                         parameters.dt_bias.value, if_defined(state), saved);
  return {out[0], out[1]};
}

}  // namespace ceiling
