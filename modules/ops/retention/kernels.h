#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct SweepRows {  // [B, T, H, width], unit stride within a head
  const void* data;
  int64_t batch_stride, time_stride, head_stride;  // elements
};

struct SweepParams {
  CpuType type;                  // of query, key, value and out: kFloat or kBFloat16
  bool backward;                 // in time
  int64_t seq_len, heads, m, n;  // T, H; query and key are M wide, value is N wide
  SweepRows query, key, value;
  const float* state_in;    // [B, H, M, N] or null: zeros
  void* out;                // [B, T, H, N]
  float* state_out;         // [B, H, M, N]
  const double* log_decay;  // [H]
  const uint8_t* start;     // [B, T] or null
  int64_t column_splits;    // each head's N columns are cut into this many tasks
  float* workspace;         // sweep_workspace(m, n) floats per task
};

constexpr int64_t kSweepBlock =
    8;  // tokens taken in at once, while the state passes through registers
constexpr int64_t kSweepLanes = 16;  // columns of the state that a vector holds

constexpr int64_t sweep_columns(int64_t n) {
  return (n + kSweepLanes - 1) / kSweepLanes * kSweepLanes;
}
constexpr int64_t sweep_workspace(int64_t m, int64_t n) {
  return (m + kSweepBlock) * sweep_columns(n) + 2 * kSweepBlock * m;
}

CEILING_CPU_KERNEL(retention_sweep, SweepParams);  // over B H column_splits

}  // namespace ceiling
