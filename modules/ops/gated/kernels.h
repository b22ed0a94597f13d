#pragma once
#include "modules/ops/activation.h"
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct GatedParams {
  CpuType type;
  Activation activation;
  int64_t width;          // F
  int64_t stride;         // elements between rows of gate, up and their gradients: F or 2F
  const void *gate, *up;  // [rows, F]
  void* y;                // [rows, F] contiguous
  const void* dy;         // [rows, F] contiguous
  void *dgate, *dup;      // [rows, F]
};

CEILING_CPU_KERNEL(gated_forward, GatedParams);   // over rows
CEILING_CPU_KERNEL(gated_backward, GatedParams);  // over rows

}  // namespace ceiling
