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
};

struct SweepOutput {
  at::Tensor out;    // [B, T, H, N], dtype of value
  at::Tensor state;  // [B, H, M, N]: forward after the last token; backward before the first, its
                     // decay applied
};

// query, key [B, T, H, M], value [B, T, H, N]; state [B, H, M, N] or undefined. No autograd.
SweepOutput sweep_aten(const SweepSetting& setting, Time time, const at::Tensor& query,
                       const at::Tensor& key, const at::Tensor& value, const at::Tensor& state);

// Whether sweep_cpu can do it: float32 or bfloat16 on a CPU, fixed decays, not the parallel form.
bool sweep_cpu_supports(const SweepSetting& setting, const at::Tensor& query);
SweepOutput sweep_cpu(const SweepSetting& setting, Time time, const at::Tensor& query,
                      const at::Tensor& key, const at::Tensor& value, const at::Tensor& state);

// Whether sweep_cuda can do it: float32 or bfloat16 on a GPU token by token, bfloat16 in chunks;
// widths that are multiples of 8 up to 512.
bool sweep_cuda_supports(const SweepSetting& setting, const at::Tensor& query,
                         const at::Tensor& value);
SweepOutput sweep_cuda(const SweepSetting& setting, Time time, const at::Tensor& query,
                       const at::Tensor& key, const at::Tensor& value, const at::Tensor& state);

}  // namespace ceiling
