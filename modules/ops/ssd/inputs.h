// The arguments of one call of ssd, as its kernels and the sweeps read them.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/ops/checks.h"
#include "modules/ops/retention/sweep.h"
#include "modules/ops/ssd/kernels.h"
#include "modules/ops/ssd/ssd.h"

namespace ceiling {

// [B, T, G, N] seen by every head of its group, without a copy.
at::Tensor of_heads(const at::Tensor& group, int64_t heads);
// [B, T, H, P] -> [B, T, H P]; copied if heads do not touch.
at::Tensor flat_rows(const at::Tensor& x);
inline SsdRows rows_of(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.stride(1)};
}

struct SsdInputs {
  at::Tensor x, dt, b, c;               // [B, T, H, P], [B, T, H], [B, T, G, N] twice
  at::Tensor a_log, d, dt_bias, state;  // [H] three times; [B, H, N, P] or undefined
  at::Tensor start;                     // [B, T] or undefined
  SsdOptions options;
  at::Tensor x_rows;     // [B, T, H P]
  at::Tensor log_decay;  // [B, T, H]: room for Delta A
  SsdParams p{};         // all that comes before v, and log_decay

  SsdInputs(const at::Tensor& x_in, const at::Tensor& dt_in, const at::Tensor& b_in,
            const at::Tensor& c_in, const at::Tensor& a_log_in, const at::Tensor& d_in,
            const at::Tensor& dt_bias_in, const at::Tensor& state_in, const at::Tensor& start_in,
            const SsdOptions& options_in);
  bool cpu() const { return x.device().is_cpu(); }
  int64_t heads() const { return x.size(2); }
  int64_t tokens() const { return x.size(0) * x.size(1); }
  SweepSetting setting() const { return {log_decay, start, options.form, options.chunk}; }
};

// On a GPU in chunks, of the shapes that retention's chunk kernel takes: no Delta x in memory.
bool ssd_chunks_forward_supports(const SsdInputs& in);
SweepOutput ssd_chunks_forward(SsdInputs& in);  // out is y

struct SsdGradients {
  at::Tensor x, dt, b, c, state;
  at::Tensor weights;  // [3, H]: of A_log, D and dt_bias
};
bool ssd_chunks_backward_supports(const SsdInputs& in);
// d_state undefined: nothing arrives there. `met`: by the forward sweep.
SsdGradients ssd_chunks_backward(SsdInputs& in, const at::Tensor& dy, const at::Tensor& d_state,
                                 const SweepStates& met);

}  // namespace ceiling
