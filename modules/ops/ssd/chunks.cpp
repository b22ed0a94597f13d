#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/retention/cuda.h"
#include "modules/ops/ssd/cuda.h"
#include "modules/ops/ssd/inputs.h"

namespace ceiling {

namespace {

static_assert(kSsdChunk == kSweepCheckpoint, "a chunk begins with a state of the sweeps");

SsdChunkParams params_of(const SsdInputs& in, const at::Tensor& start, const at::Tensor& delta) {
  SsdChunkParams c{};
  c.of = in.p;
  c.chunks = (in.x.size(1) + kSsdChunk - 1) / kSsdChunk;
  c.start = start.defined() ? start.const_data_ptr<uint8_t>() : nullptr;
  c.delta = delta.mutable_data_ptr<float>();
  return c;
}

// How many pieces of a group's heads run side by side: as few rounds of heads over the SMs as
// possible, each piece with the two that its share of B and C costs.
int64_t parts_of(int64_t blocks, int64_t heads) {
  constexpr int64_t kSms = 132, kMost = 16, kShared = 2;
  int64_t best = 1, least = 0;
  for (int64_t parts = 1; parts <= std::min(heads, kMost); ++parts) {
    const int64_t rounds = (blocks * parts + kSms - 1) / kSms,
                  time = rounds * ((heads + parts - 1) / parts + kShared);
    if (parts == 1 || time < least) best = parts, least = time;
  }
  return best;
}

SweepSetting setting_of(const SsdInputs& in) {
  SweepSetting setting = in.setting();
  setting.pairs = in.heads() / in.b.size(2) % 2 == 0;
  return setting;
}

}  // namespace

bool ssd_chunks_forward_supports(const SsdInputs& in) {
  return sweep_cuda_in_chunks(in.setting(), in.c, in.x);
}

SweepOutput ssd_chunks_forward(SsdInputs& in) {
  const at::Tensor delta = at::empty_like(in.log_decay);
  launch(ssd_steps_cuda, params_of(in, {}, delta), in.x);
  SweepSetting setting = setting_of(in);
  setting.value_weight = delta, setting.skip = in.d;
  return sweep_cuda(setting, Time::kForward, of_heads(in.c, in.heads()), of_heads(in.b, in.heads()),
                    in.x, in.state);
}

bool ssd_chunks_backward_supports(const SsdInputs& in) {
  const int64_t d_state = in.b.size(3);
  return ssd_chunks_forward_supports(in) && in.x.size(3) == 64 && (d_state == 64 || d_state == 128);
}

SsdGradients ssd_chunks_backward(SsdInputs& in, const at::Tensor& dy_in, const at::Tensor& d_state,
                                 const SweepStates& met) {
  const int64_t batch = in.x.size(0), seq_len = in.x.size(1), heads = in.heads(),
                dim = in.x.size(3), groups = in.b.size(2), width = in.b.size(3);
  const auto wide = in.log_decay.options();
  const at::Tensor start = in.start.defined() ? in.start.contiguous() : at::Tensor(),
                   delta = at::empty_like(in.log_decay), x = rows_of_pieces(flat_rows(in.x)),
                   dy = rows_of_pieces(flat_rows(dy_in)), b = rows_of_pieces(flat_rows(in.b)),
                   c = rows_of_pieces(flat_rows(in.c));
  SsdChunkParams p = params_of(in, start, delta);
  p.of.x = rows_of(x), p.of.dy = rows_of(dy), p.b = rows_of(b), p.c = rows_of(c);
  p.groups = groups, p.d_state = width;
  // One for each token and head, the last chunk filled up.
  const at::Tensor vectors = at::empty({7, batch, p.chunks, heads, kSsdChunk}, wide),
                   document = at::empty({batch, p.chunks, kSsdChunk}, wide.dtype(at::kInt));
  p.document = document.mutable_data_ptr<int>();
  int64_t used = 0;
  for (float** vector :
       {&p.decay, &p.step, &p.of_state, &p.of_tokens, &p.to_tokens, &p.to_state, &p.through_skip})
    *vector = vectors[used++].mutable_data_ptr<float>();
  launch(ssd_steps_cuda, p, in.x);

  SweepSetting setting = setting_of(in);
  const at::Tensor dy_heads = dy.view({batch, seq_len, heads, dim});
  const SweepCheckpoints after =
      sweep_checkpoints_cuda(setting, Time::kBackward, of_heads(in.c, heads), dy_heads, d_state);
  setting.value_weight = delta;
  const SweepCheckpoints before = sweep_checkpoints_cuda(
      setting, Time::kForward, of_heads(in.b, heads), x.view(dy_heads.sizes()), in.state, met);
  p.states = before.states.const_data_ptr(), p.state_grads = after.states.const_data_ptr();

  SsdGradients grads;
  grads.x = at::empty(in.x.sizes(), in.x.options());
  grads.dt = at::empty(in.dt.sizes(), in.dt.options());
  p.of.dx = grads.x.mutable_data_ptr(), p.of.ddt = grads.dt.mutable_data_ptr();
  p.parts = parts_of(batch * p.chunks * groups, heads / groups);
  const at::Tensor dc = at::empty({p.parts, batch, seq_len, groups, width}, wide);
  p.dc_parts = dc.mutable_data_ptr<float>();
  at::Tensor db;
  if (p.parts == 1) {
    grads.b = at::empty(in.b.sizes(), in.b.options());
    grads.c = at::empty(in.c.sizes(), in.c.options());
    p.db = grads.b.mutable_data_ptr(), p.dc = grads.c.mutable_data_ptr();
  } else {
    db = at::empty_like(dc);
    p.db_parts = db.mutable_data_ptr<float>();
  }
  const at::Tensor passing = at::empty({batch, p.chunks, heads}, wide);
  p.passing = passing.mutable_data_ptr<float>();
  launch(ssd_reads_cuda, p, in.x);
  launch(ssd_sources_cuda, p, in.x);
  if (p.parts > 1)
    grads.b = db.sum(0).to(in.b.scalar_type()), grads.c = dc.sum(0).to(in.c.scalar_type());

  p.from_zero = !in.state.defined();
  const at::Tensor partial = at::empty({batch * p.chunks, 3, heads}, wide);
  p.of.partial = partial.mutable_data_ptr();
  launch(ssd_close_cuda, p, in.x);
  grads.weights = partial.sum(0);
  if (in.state.defined()) grads.state = after.state.to(in.state.scalar_type());
  return grads;
}

}  // namespace ceiling
