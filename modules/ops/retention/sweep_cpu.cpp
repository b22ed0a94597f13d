#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "modules/ops/checks.h"
#include "modules/ops/retention/kernels.h"
#include "modules/ops/retention/sweep.h"

namespace ceiling {

bool sweep_cpu_supports(const SweepSetting& setting, const at::Tensor& query) {
  const bool narrow = query.scalar_type() == at::kFloat || query.scalar_type() == at::kBFloat16;
  return query.device().is_cpu() && narrow && setting.form != RetentionForm::kParallel;
}

namespace {
SweepRows rows_of(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}
at::Tensor unit_stride(const at::Tensor& x) {
  return x.stride(3) == 1 || x.size(3) == 1 ? x : x.contiguous();
}
}  // namespace

SweepOutput sweep_cpu(const SweepSetting& setting, Time time, const at::Tensor& query_in,
                      const at::Tensor& key_in, const at::Tensor& value_in,
                      const at::Tensor& state_in) {
  const at::Tensor query = unit_stride(query_in), key = unit_stride(key_in),
                   value = unit_stride(value_in);
  const int64_t batch = query.size(0), seq_len = query.size(1), heads = query.size(2),
                m = query.size(3), n = value.size(3);
  const auto wide = query.options().dtype(at::kFloat);
  const at::Tensor state = state_in.defined() ? state_in.to(at::kFloat).contiguous() : at::Tensor();
  const at::Tensor log_decay = setting.log_decay.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor start = setting.start.defined() ? setting.start.contiguous() : at::Tensor();
  SweepOutput result{
      at::empty({batch, seq_len, heads, n}, setting.wide_out ? wide : query.options()),
      at::empty({batch, heads, m, n}, wide)};
  // Two tasks per thread at least, by cutting heads into columns, which are independent of each
  // other.
  int64_t splits = 1;
  while (batch * heads * splits < 2 * at::get_num_threads() && splits * 2 * kSweepColumns <= n)
    splits *= 2;
  const int64_t tasks = batch * heads * splits;
  SweepParams p{};
  p.type = cpu_type(query, "retention"), p.wide_out = setting.wide_out;
  p.backward = time == Time::kBackward;
  p.seq_len = seq_len, p.heads = heads, p.m = m, p.n = n;
  // The recurrent form may take several tokens at once, too: the same sums in another order.
  p.chunk =
      setting.form == RetentionForm::kChunk ? std::min(setting.chunk, kSweepChunk) : kSweepChunk;
  p.query = rows_of(query), p.key = rows_of(key), p.value = rows_of(value);
  p.state_in = state.defined() ? state.const_data_ptr<float>() : nullptr;
  p.out = result.out.mutable_data_ptr(), p.state_out = result.state.mutable_data_ptr<float>();
  p.log_decay = log_decay.const_data_ptr<double>();
  if (log_decay.dim() == 3) p.decay_batch_stride = seq_len * heads, p.decay_time_stride = heads;
  p.start = start.defined() ? start.const_data_ptr<uint8_t>() : nullptr;
  p.column_splits = splits;
  at::parallel_for(0, tasks, 1, [&](int64_t b, int64_t e) {
    const at::Tensor workspace = at::empty({sweep_workspace(m, n)}, wide);
    SweepParams mine = p;
    mine.workspace = workspace.mutable_data_ptr<float>();
    retention_sweep(mine, b, e);
  });
  return result;
}

void decay_gradient_cpu(const SweepSetting& setting, const at::Tensor& q_in, const at::Tensor& k_in,
                        bool from_zero, const at::Tensor& end_in, int64_t group,
                        SweepGradients& d) {
  const at::Tensor q = unit_stride(q_in), k = unit_stride(k_in),
                   end = end_in.defined() ? end_in.contiguous() : end_in,
                   start = setting.start.defined() ? setting.start.contiguous() : at::Tensor();
  const int64_t batch = q.size(0), seq_len = q.size(1), heads = q.size(2), width = q.size(3);
  const at::Tensor dq = at::empty({batch, seq_len, heads / group, width}, q.options()),
                   dk = at::empty({batch, seq_len, heads / group, width}, q.options());
  d.log_decay = at::empty({batch, seq_len, heads}, q.options().dtype(at::kDouble));
  DecayGradientParams p{};
  p.type = cpu_type(q, "retention");
  p.seq_len = seq_len, p.heads = heads, p.width = width, p.group = group;
  p.q = rows_of(q), p.dq = rows_of(d.q), p.k = rows_of(k), p.dk = rows_of(d.k);
  p.dq_sum = dq.mutable_data_ptr(), p.dk_sum = dk.mutable_data_ptr();
  if (end.defined()) p.end = end.const_data_ptr<double>();
  p.from_zero = from_zero;
  if (start.defined()) p.start = start.const_data_ptr<uint8_t>();
  p.out = d.log_decay.mutable_data_ptr<double>();
  at::parallel_for(0, batch * seq_len, row_grain(4 * heads * width),
                   [&](int64_t b, int64_t e) { retention_decay_terms(p, b, e); });
  at::parallel_for(0, batch * heads, 1,
                   [&](int64_t b, int64_t e) { retention_decay_sums(p, b, e); });
  d.q = dq, d.k = dk;
}

}  // namespace ceiling
