#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

constexpr int64_t kMaxRotaryRest = 4;

// [B, T, H, head_dim] or [B, T, width] where it is: elements between neighbours, 1 in the last
// dimension.
struct RotaryGradient {
  const void* data;  // null: zeros
  int64_t batch_stride, time_stride, head_stride;
};

struct RotaryParams {
  CpuType type;
  int64_t seq_len, width;  // T, W
  int64_t n_q_heads, n_k_heads, head_dim;
  int64_t turned;  // channels of a head that turn, the first ones
  bool interleaved;
  double q_scale, k_scale;
  const void* table;    // [positions, 2, turned / 2], float (double for kDouble)
  const int* position;  // [B, T] or null: t
  const void* x;        // forward: [B T, W]
  void *q, *k;          // forward: [B T, heads, head_dim]
  RotaryGradient dq, dk, drest[kMaxRotaryRest];                    // backward
  int64_t rest_first[kMaxRotaryRest], rest_width[kMaxRotaryRest];  // channels, of those to copy
  int64_t n_rest;
  void* dx;  // backward: [B T, W]
};

CEILING_CPU_KERNEL(rotary_forward, RotaryParams);   // over B T
CEILING_CPU_KERNEL(rotary_backward, RotaryParams);  // over B T

}  // namespace ceiling
