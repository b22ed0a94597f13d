#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct SsdRows {  // [B, T, width], unit stride within a row
  const void* data;
  int64_t batch_stride, time_stride;  // elements
};

// What surrounds the sweeps of retention: time steps before, the skip after them.
struct SsdParams {
  CpuType type;
  int64_t batch, seq_len, heads, dim;  // B, T, H, P
  double dt_min, dt_max;
  SsdRows x, dt;                    // H P and H wide
  const void *a_log, *d, *dt_bias;  // [H], float (double for kDouble)
  // Forward, `prepare`: what the sweep takes.
  void* v;          // [B, T, H, P]: Delta x
  void* log_decay;  // [B, T, H] float (double): Delta A
  // Forward, `skip`: y = o + D x.
  const void* o;  // [B, T, H, P]; a CPU: float (double); a GPU: as y. May be y
  void* y;        // [B, T, H, P]
  // Backward.
  SsdRows dy;                 // H P wide
  const void* dv;             // [B, T, H, P]: gradient at Delta x
  const double* d_log_decay;  // [B, T, H]
  void *dx, *ddt;             // [B, T, H, P], [B, T, H]
  int64_t partials;           // a CPU: one for each block of kSsdBlock tokens; a GPU: so many
  void* partial;              // [partials, 3, H], float (double): gradients of A_log, D, dt_bias
};

constexpr int64_t kSsdBlock = 64;  // tokens whose parameter gradients are added up together; fixed

CEILING_CPU_KERNEL(ssd_prepare, SsdParams);   // over B T
CEILING_CPU_KERNEL(ssd_skip, SsdParams);      // over B T
CEILING_CPU_KERNEL(ssd_backward, SsdParams);  // over blocks of B T tokens

}  // namespace ceiling
