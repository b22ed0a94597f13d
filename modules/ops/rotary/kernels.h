#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct RotaryParams {
  CpuType type;
  int64_t seq_len, width;  // T, W
  int64_t n_q_heads, n_k_heads, head_dim;
  bool interleaved;
  double q_scale, k_scale;
  const void* table;    // [positions, 2, head_dim / 2], float (double for kDouble)
  const int* position;  // [B, T] or null: t
  const void* x;        // forward: [B T, W]
  void *q, *k;          // forward: [B T, heads, head_dim]
  const void *dq, *dk;  // backward; null: zero
  const void* const*
      drest;  // backward: per part [B T, width] with drest_stride between rows, null: zero
  const int64_t *rest_width, *drest_stride;
  int64_t n_rest;
  void* dx;  // backward: [B T, W]
};

CEILING_CPU_KERNEL(rotary_forward, RotaryParams);   // over B T
CEILING_CPU_KERNEL(rotary_backward, RotaryParams);  // over B T

}  // namespace ceiling
