#pragma once
#include "modules/ops/activation.h"
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct GatedParams {
  CpuType type;
  Activation activation;
  int64_t width;        // F
  const void* gate_up;  // [rows, 2F]
  void* y;              // [rows, F]
  const void* dy;       // [rows, F]
  void* dgate_up;       // [rows, 2F]
};

CEILING_CPU_KERNEL(gated_forward, GatedParams);   // over rows
CEILING_CPU_KERNEL(gated_backward, GatedParams);  // over rows

}  // namespace ceiling
