#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/retention/cut.h"
#include "modules/ops/retention/sweep.h"

namespace ceiling {

namespace {

constexpr int64_t kChunk = 32;  // of the kernel; a shorter one asked for goes another way

bool token_by_token(const SweepSetting& setting, const at::Tensor& query) {
  return setting.form == RetentionForm::kRecurrent || query.size(1) == 1;
}

GpuSweepStrides strides_of(const at::Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2)}; }

// `checkpoints` undefined, or room for them: then there is neither query nor out.
SweepOutput run(const SweepSetting& setting, Time time, const at::Tensor& query_in,
                const at::Tensor& key_in, const at::Tensor& value_in, const at::Tensor& state_in,
                const SweepStates& known, const at::Tensor& checkpoints) {
  const at::Tensor key = rows_of_pieces(key_in), value = rows_of_pieces(value_in),
                   query = checkpoints.defined() ? key : rows_of_pieces(query_in);
  const int64_t batch = key.size(0), seq_len = key.size(1), heads = key.size(2),
                m_dim = key.size(3), n_dim = value.size(3);
  const auto wide = key.options().dtype(at::kFloat);
  SweepOutput result;
  result.state = at::empty({batch, heads, m_dim, n_dim}, wide);
  const at::Tensor state = state_in.defined() ? state_in.to(at::kFloat).contiguous() : at::Tensor();
  const at::Tensor start = setting.start.defined() ? setting.start.contiguous() : at::Tensor();
  GpuSweepParams p{};
  if (checkpoints.defined()) {
    p.checkpoints = checkpoints.mutable_data_ptr();
  } else {
    const bool in_room = setting.room.defined() && !token_by_token(setting, query) &&
                         has_rows_of_pieces(setting.room);
    result.out = in_room ? setting.room
                         : at::empty({batch, seq_len, heads, n_dim},
                                     setting.wide_out ? wide : key.options());
    p.out = result.out.mutable_data_ptr(), p.out_strides = strides_of(result.out);
  }
  p.batch = batch, p.seq_len = seq_len, p.heads = heads, p.m_dim = m_dim, p.n_dim = n_dim;
  p.backward = time == Time::kBackward, p.bf16 = query.scalar_type() == at::kBFloat16;
  p.wide_out = setting.wide_out;
  p.query = query.const_data_ptr(), p.query_strides = strides_of(query);
  p.key = key.const_data_ptr(), p.key_strides = strides_of(key);
  p.value = value.const_data_ptr(), p.value_strides = strides_of(value);
  p.start = start.defined() ? start.const_data_ptr<uint8_t>() : nullptr;
  p.state_in = state.defined() ? state.const_data_ptr<float>() : nullptr;
  p.state_out = result.state.mutable_data_ptr<float>();
  p.value_weight =
      setting.value_weight.defined() ? setting.value_weight.const_data_ptr<float>() : nullptr;
  p.skip = setting.skip.defined() ? setting.skip.const_data_ptr<float>() : nullptr;
  p.segments = 1;

  // Fixed decays of a few heads travel with the launch; they are on the CPU, and a copy would wait.
  at::Tensor log_decay;
  if (setting.log_decay.dim() == 1 && heads <= kMaxSweepHeads && setting.log_decay.is_cpu()) {
    const at::Tensor fixed = setting.log_decay.to(at::kDouble).contiguous();
    for (int64_t h = 0; h < heads; ++h)
      p.log_decay_of_head[h] = static_cast<float>(fixed.const_data_ptr<double>()[h]);
  } else {
    log_decay = setting.log_decay.to(query.device(), at::kFloat)
                    .expand({batch, seq_len, heads})
                    .contiguous();
    p.log_decay = log_decay.const_data_ptr<float>();
  }

  if (token_by_token(setting, query)) {
    launch(sweep_recurrent_cuda, p, query);
    return result;
  }
  const SweepShape shape{batch * heads, m_dim, n_dim, p.skip != nullptr, setting.pairs};
  p.kernel = shape.kernel(), p.slice = sweep_tiling(shape).slice;
  at::Tensor of_parts, across, handed, handed_states;
  if (known.entering.defined()) {
    p.segments = known.entering.size(0);
    p.segment_states = known.entering.mutable_data_ptr<float>();
    p.entering_known = true, p.entering_transposed = known.transposed, p.parts_of_segment = 1;
  } else {
    const Cut cut = cheapest_cut(shape, seq_len, p.checkpoints || p.skip);
    p.segments = cut.segments, p.parts_of_segment = static_cast<int>(cut.parts);
    p.recorded_segments = cut.recorded;
    const auto states = [&](int64_t count) {
      return at::empty({count, batch, heads, m_dim, n_dim}, wide);
    };
    if (const int64_t count = std::max(cut.segments, cut.recorded); count > 1) {
      result.met.entering = states(count);
      p.segment_states = result.met.entering.mutable_data_ptr<float>();
    }
    if (cut.dealt_blocks > 0 && !p.wide_out) {
      p.dealt_blocks = cut.dealt_blocks;
      handed = at::zeros({cut.dealt_blocks, kHandingWarps}, wide.dtype(at::kInt));
      handed_states = at::empty({cut.dealt_blocks, m_dim <= 128 ? 128 : 256, p.slice}, wide);
      p.handed = reinterpret_cast<unsigned*>(handed.mutable_data_ptr<int>());
      p.handed_states = handed_states.mutable_data_ptr<float>();
    }
    if (cut.segments > 1) {
      of_parts = states((cut.segments - 1) * cut.parts);
      across = at::empty({(cut.segments - 1) * cut.parts, batch, heads}, wide);
      p.part_states = of_parts.mutable_data_ptr<float>();
      p.part_across = across.mutable_data_ptr<float>();
    }
  }
  launch(sweep_chunk_cuda, p, query);
  return result;
}

}  // namespace

bool sweep_cuda_in_chunks(const SweepSetting& setting, const at::Tensor& query,
                          const at::Tensor& value) {
  return sweep_cuda_supports(setting, query, value) && !token_by_token(setting, query);
}

bool sweep_cuda_supports(const SweepSetting& setting, const at::Tensor& query,
                         const at::Tensor& value) {
  if (query.device().is_cpu() || query.size(3) > kMaxSweepWidth || value.size(3) > kMaxSweepWidth)
    return false;
  const at::ScalarType type = query.scalar_type();
  if (token_by_token(setting, query)) return type == at::kFloat || type == at::kBFloat16;
  return setting.form == RetentionForm::kChunk && setting.chunk >= kChunk &&
         type == at::kBFloat16 && query.size(3) % 8 == 0 && value.size(3) % 8 == 0;
}

SweepOutput sweep_cuda(const SweepSetting& setting, Time time, const at::Tensor& query,
                       const at::Tensor& key, const at::Tensor& value, const at::Tensor& state,
                       const SweepStates& known) {
  return run(setting, time, query, key, value, state, known, {});
}

SweepCheckpoints sweep_checkpoints_cuda(const SweepSetting& setting, Time time,
                                        const at::Tensor& key, const at::Tensor& value,
                                        const at::Tensor& state, const SweepStates& known) {
  const int64_t pieces = (key.size(1) + kSweepCheckpoint - 1) / kSweepCheckpoint;
  const at::Tensor states =
      at::empty({key.size(0), pieces, key.size(2), value.size(3), key.size(3)}, key.options());
  return {states, run(setting, time, {}, key, value, state, known, states).state};
}

void decay_gradient_cuda(const SweepSetting& setting, const at::Tensor& q_in,
                         const at::Tensor& k_in, bool from_zero, const at::Tensor& end_in,
                         int64_t group, SweepGradients& d) {
  const auto unit_stride = [](const at::Tensor& x) {
    return x.stride(3) == 1 || x.size(3) == 1 ? x : x.contiguous();
  };
  const at::Tensor q = unit_stride(q_in), k = unit_stride(k_in), own_dq = d.q.contiguous(),
                   own_dk = d.k.contiguous(), end = end_in.defined() ? end_in.contiguous() : end_in,
                   start = setting.start.defined() ? setting.start.contiguous() : at::Tensor();
  const int64_t batch = q.size(0), seq_len = q.size(1), heads = q.size(2), width = q.size(3);
  const at::Tensor terms = at::empty({batch, heads, seq_len}, q.options().dtype(at::kFloat));
  d.log_decay = at::empty({batch, seq_len, heads}, q.options().dtype(at::kDouble));
  GpuDecayGradientParams p{};
  p.batch = batch, p.seq_len = seq_len, p.heads = heads, p.width = width, p.group = group;
  p.bf16 = q.scalar_type() == at::kBFloat16;
  p.q = q.const_data_ptr(), p.q_strides = strides_of(q);
  p.k = k.const_data_ptr(), p.k_strides = strides_of(k);
  p.dq = own_dq.const_data_ptr<float>(), p.dk = own_dk.const_data_ptr<float>();
  if (group > 1) {
    d.q = at::empty({batch, seq_len, heads / group, width}, q.options());
    d.k = at::empty({batch, seq_len, heads / group, width}, q.options());
    p.dq_sum = d.q.mutable_data_ptr(), p.dk_sum = d.k.mutable_data_ptr();
  } else {
    d.q = own_dq.to(q.scalar_type()), d.k = own_dk.to(k.scalar_type());
  }
  if (end.defined()) p.end = end.const_data_ptr<double>();
  p.from_zero = from_zero;
  p.start = start.defined() ? start.const_data_ptr<uint8_t>() : nullptr;
  p.terms = terms.mutable_data_ptr<float>(), p.out = d.log_decay.mutable_data_ptr<double>();
  launch(decay_gradient_kernel_cuda, p, q);
}

}  // namespace ceiling
