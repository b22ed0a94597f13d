#include "modules/ops/retention/sweep.h"

#include <ATen/TensorOperators.h>

#include "modules/ops/device.h"

namespace ceiling {

namespace {

at::Tensor transposed(const at::Tensor& state) {
  return state.defined() ? state.transpose(-1, -2) : at::Tensor();
}

// The same in ATen.
void decay_gradient(const at::Tensor& q, const at::Tensor& k, const at::Tensor& end,
                    SweepGradients& d) {
  const auto dot = [](const at::Tensor& a, const at::Tensor& b) {
    return (a.to(at::kDouble) * b.to(at::kDouble)).sum(-1);
  };
  d.log_decay = (dot(q, d.q) - dot(k, d.k)).flip(1).cumsum(1).flip(1);
  if (end.defined()) d.log_decay = d.log_decay + end.unsqueeze(1);
}

// For the sweep whose states are the transposes.
SweepStates transposed(SweepStates met) {
  met.transposed = !met.transposed;
  return met;
}

at::Tensor of_groups(const at::Tensor& d, int64_t group) {
  return group == 1 ? d : d.unflatten(2, {d.size(2) / group, group}).sum(3);
}

}  // namespace

SweepOutput sweep(const SweepSetting& setting, Time time, const at::Tensor& query,
                  const at::Tensor& key, const at::Tensor& value, const at::Tensor& state,
                  const SweepStates& known) {
  if (sweep_cpu_supports(setting, query)) return sweep_cpu(setting, time, query, key, value, state);
  if (sweep_cuda_supports(setting, query, value))
    return sweep_cuda(setting, time, query, key, value, state, known);
  return sweep_aten(setting, time, query, key, value, state);
}

SweepGradients sweep_backward(const SweepSetting& setting, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v, const at::Tensor& state, const at::Tensor& d_out,
                              const at::Tensor& d_state, bool needs_log_decay, int64_t group,
                              const SweepStates& met, const at::Tensor& room_for_v) {
  const bool cpu = q.device().is_cpu();
  SweepSetting with_q_k = setting;
  with_q_k.wide_out = needs_log_decay;
  SweepSetting with_v = setting;
  with_v.room = room_for_v;
  SweepGradients d;
  // Side by side, as blocks of one alone seldom fill a GPU's last round.
  Beside of_q(q.device(), 0), of_k(q.device(), 1);
  const SweepOutput for_v = sweep(with_v, Time::kBackward, k, q, d_out, d_state);
  d.v = for_v.out;
  of_q.run([&] {
    d.q = sweep(with_q_k, Time::kForward, d_out, v, k, transposed(state), transposed(met)).out;
  });
  if (for_v.met.entering.defined()) of_k.wait();
  of_k.run([&] {
    d.k = sweep(with_q_k, Time::kBackward, v, d_out, q, transposed(d_state), transposed(for_v.met))
              .out;
  });
  of_q.join(), of_k.join();
  if (state.defined()) d.state = for_v.state.to(state.scalar_type());
  if (!needs_log_decay) {
    d.q = of_groups(d.q, group), d.k = of_groups(d.k, group);
    return d;
  }
  // A decay at t lies between every source before t and every reader from t on; the final state is
  // a reader after the end.
  at::Tensor end;
  if (d_state.defined())
    end = (sweep(setting, Time::kForward, q, k, v, state).state.to(at::kDouble) *
           d_state.to(at::kDouble))
              .sum(at::IntArrayRef({-1, -2}));
  if (cpu) {
    decay_gradient_cpu(setting, q, k, !state.defined(), end, group, d);
  } else if (q.scalar_type() != at::kDouble) {
    decay_gradient_cuda(setting, q, k, !state.defined(), end, group, d);
  } else {
    decay_gradient(q, k, end, d);
    d.q = of_groups(d.q, group), d.k = of_groups(d.k, group);
  }
  return d;
}

}  // namespace ceiling
