#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct SweepRows {  // [B, T, H, width], unit stride within a head
  const void* data;
  int64_t batch_stride, time_stride, head_stride;  // elements
};

struct SweepParams {
  CpuType type;                  // of query, key and value: kFloat or kBFloat16
  bool wide_out;                 // out is float; else of their type
  bool backward;                 // in time
  int64_t seq_len, heads, m, n;  // T, H; query and key are M wide, value is N wide
  int64_t chunk;                 // tokens of one piece, at most kSweepChunk
  SweepRows query, key, value;
  const float* state_in;  // [B, H, M, N] or null: zeros
  void* out;              // [B, T, H, N]
  float* state_out;       // [B, H, M, N]
  // [H] if the strides are 0, else [B, T, H]; neighbouring heads touch.
  const double* log_decay;
  int64_t decay_batch_stride, decay_time_stride;
  const uint8_t* start;   // [B, T] or null
  int64_t column_splits;  // each head's N columns are cut into this many tasks
  float* workspace;       // of this call: sweep_workspace(m, n) floats
};

// Longer pieces add work within them, shorter ones pass the state through registers more often;
// measured in README.md.
constexpr int64_t kSweepChunk = 16;
constexpr int64_t kSweepColumns = 32;  // widths are filled up to whole register tiles
constexpr int64_t kSweepFill = 8;      // and so are heights

constexpr int64_t filled(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
// The state and a piece's values; its queries and keys (twice); its scores.
constexpr int64_t sweep_workspace(int64_t m, int64_t n) {
  return (filled(m, kSweepFill) + kSweepChunk) * filled(n, kSweepColumns) +
         3 * filled(m, kSweepFill) * kSweepChunk + kSweepChunk * kSweepChunk;
}

CEILING_CPU_KERNEL(retention_sweep, SweepParams);  // over B H column_splits

// README.md, eq. 4, and the gradients of q and k that several heads share.
struct DecayGradientParams {
  CpuType type;                   // of q and k; dq and dk are float (double for kDouble)
  int64_t seq_len, heads, width;  // T, H, K
  SweepRows q, dq, k, dk;
  int64_t group;          // heads that share q and k
  void *dq_sum, *dk_sum;  // [B, T, H / group, K], type of q: sums over them
  const double* end;      // [B, H] or null: <final state, its gradient>
  bool from_zero;         // no state came in
  const uint8_t* start;   // [B, T] or null
  double* out;            // [B, T, H]: the terms, then their sums in place
};

CEILING_CPU_KERNEL(retention_decay_terms, DecayGradientParams);  // over B T
CEILING_CPU_KERNEL(retention_decay_sums, DecayGradientParams);   // over B H

}  // namespace ceiling
