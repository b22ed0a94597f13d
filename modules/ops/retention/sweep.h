// One sweep over time, of which retention is made: its forward is one, its backward three
// (README.md, eq. 3). For all t, with w(s, t) the product of the decays between s and t (0 across
// documents),
//   forward   out_t = sum_{s <= t} w(s, t) (query_t . key_s) value_s  +  w(-1, t) query_t state
//   backward  out_t = sum_{s >= t} w(t, s) (query_t . key_s) value_s  +  w(t, T-1) query_t state
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/ops/retention/retention.h"

namespace ceiling {

enum class Time { kForward, kBackward };

// What all sweeps of one call share.
struct SweepSetting {
  at::Tensor log_decay;  // [H] or [B, T, H]
  at::Tensor start;      // [B, T] uint8, or undefined: no document starts
  RetentionForm form;
  int64_t chunk;
  bool wide_out = false;  // out in float32 (float64), not rounded to the dtype of value
  // Only where sweep_cuda_in_chunks(), contiguous float32; undefined elsewhere.
  at::Tensor value_weight = {};  // [B, T, H]: value enters times it
  at::Tensor skip = {};          // [H]: out gains skip times value, without its weight
  bool pairs = false;            // heads 2 i and 2 i + 1 share query and key
  // Room for out, [B, T, H, N] of its dtype, of any strides: taken where sweep_cuda_in_chunks() and
  // its rows are whole pieces of 16 bytes.
  at::Tensor room = {};
};

// States that a sweep on a GPU met where it cut time into segments, [segments, B, H, M, N] float32;
// undefined where it did not. A sweep over the same tokens in the same direction whose states are
// the same, or their transposes, need not look for them again.
struct SweepStates {
  at::Tensor entering = {};
  bool transposed = false;  // for the sweep that takes them
};

struct SweepOutput {
  at::Tensor out;    // [B, T, H, N], dtype of value unless wide_out
  at::Tensor state;  // [B, H, M, N]: forward after the last token; backward before the first, its
                     // decay applied
  SweepStates met = {};
};

// log_decay, [H] or [B, T, H], as float64 on a device. Those that are fixed may be on the CPU, from
// where a CUDA graph that is recorded cannot copy: they go as arguments of kernels, one a head.
at::Tensor wide_decays(const at::Tensor& log_decay, at::Device device);

// query, key [B, T, H, M], value [B, T, H, N]; state [B, H, M, N] or undefined. No autograd.
SweepOutput sweep_aten(const SweepSetting& setting, Time time, const at::Tensor& query,
                       const at::Tensor& key, const at::Tensor& value, const at::Tensor& state);

// By whichever of the three below can do it.
SweepOutput sweep(const SweepSetting& setting, Time time, const at::Tensor& query,
                  const at::Tensor& key, const at::Tensor& value, const at::Tensor& state,
                  const SweepStates& known = {});

struct SweepGradients {
  // q and k are those of `group` heads, summed; log_decay is [B, T, H] float64, only if asked for;
  // state only if there is one.
  at::Tensor q, k, v, log_decay, state;
};
// The backward of out = sweep(setting, Time::kForward, q, k, v, state), eq. 3 and 4: three sweeps.
// d_state undefined: nothing arrives at the final state. `group` neighbouring heads share q and k,
// whose gradients [B, T, H / group, K] are the sums over them. `met`: by the forward sweep.
// `room_for_v`: SweepSetting::room of the gradient of v.
SweepGradients sweep_backward(const SweepSetting& setting, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v, const at::Tensor& state, const at::Tensor& d_out,
                              const at::Tensor& d_state, bool needs_log_decay, int64_t group = 1,
                              const SweepStates& met = {}, const at::Tensor& room_for_v = {});

// Whether sweep_cpu can do it: float32 or bfloat16 on a CPU, not the parallel form.
bool sweep_cpu_supports(const SweepSetting& setting, const at::Tensor& query);
SweepOutput sweep_cpu(const SweepSetting& setting, Time time, const at::Tensor& query,
                      const at::Tensor& key, const at::Tensor& value, const at::Tensor& state);

// Whether sweep_cuda can do it: float32 or bfloat16 on a GPU token by token, bfloat16 in chunks;
// widths that are multiples of 8 up to 512.
bool sweep_cuda_supports(const SweepSetting& setting, const at::Tensor& query,
                         const at::Tensor& value);
SweepOutput sweep_cuda(const SweepSetting& setting, Time time, const at::Tensor& query,
                       const at::Tensor& key, const at::Tensor& value, const at::Tensor& state,
                       const SweepStates& known = {});

bool sweep_cuda_in_chunks(const SweepSetting& setting, const at::Tensor& query,
                          const at::Tensor& value);

struct SweepCheckpoints {
  // [B, ceil(T / kSweepCheckpoint), H, N, M] bfloat16: the states, transposed, that enter each
  // piece of time; backward in time, from its end.
  at::Tensor states;
  at::Tensor state;  // as SweepOutput's
};
// What sweep_cuda() meets on its way, where it goes in chunks; M at most 128, N at most 64.
SweepCheckpoints sweep_checkpoints_cuda(const SweepSetting& setting, Time time,
                                        const at::Tensor& key, const at::Tensor& value,
                                        const at::Tensor& state, const SweepStates& known = {});

// Eq. 4: d.log_decay from d.q and d.k of each head, which are then summed over groups. from_zero:
// no state came in; end [B, H] float64: <final state, its gradient>, or undefined. d.q and d.k come
// in float32 (float64): eq. 4 is a sum of differences of their products.
void decay_gradient_cpu(const SweepSetting& setting, const at::Tensor& q, const at::Tensor& k,
                        bool from_zero, const at::Tensor& end, int64_t group, SweepGradients& d);
// bfloat16 or float32 on a GPU.
void decay_gradient_cuda(const SweepSetting& setting, const at::Tensor& q, const at::Tensor& k,
                         bool from_zero, const at::Tensor& end, int64_t group, SweepGradients& d);

}  // namespace ceiling
