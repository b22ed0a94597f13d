#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct GatedRmsNormParams {
  CpuType type;
  int64_t rows, groups, dim;  // B T, G, E / G
  double eps;
  const void* x;     // [rows, E]
  const void* gate;  // rows of E, gate_stride apart
  int64_t gate_stride;
  const void* weight;     // [E]
  void* y;                // [rows, E]
  const void* dy;         // [rows, E]
  void *dx, *dgate;       // [rows, E]
  int64_t partials;       // a CPU: one for each block of kGatedNormBlock rows; a GPU: so many
  void* dweight_partial;  // [partials, E], float (double)
  void* dweight;          // [E], float: a GPU adds the sum of the partials to it
};

constexpr int64_t kGatedNormBlock = 64;  // rows whose weight gradients are added up together; fixed

CEILING_CPU_KERNEL(gated_rms_norm_forward, GatedRmsNormParams);   // over rows
CEILING_CPU_KERNEL(gated_rms_norm_backward, GatedRmsNormParams);  // over blocks

}  // namespace ceiling
