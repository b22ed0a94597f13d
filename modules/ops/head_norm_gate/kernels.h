#pragma once
#include "modules/ops/activation.h"
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct HeadNormGateParams {
  CpuType type;
  Activation activation;
  int64_t rows;        // B T
  int64_t heads, dim;  // H, V
  double eps;
  const void* o;     // [rows, H, V]
  const void* gate;  // rows of H V, gate_stride apart
  int64_t gate_stride;
  const void* weight;  // [V] or null
  void* y;             // [rows, H V]
  const void* dy;      // [rows, H V]
  void* d_o;           // [rows, H, V]
  void* dgate;         // [rows, H V], or laid out as the gate is
  bool dgate_as_gate;
  int64_t partials;  // a CPU: one for each block of kHeadNormBlock rows; a GPU: room for so many
  void* dweight_partial;  // [partials, V], float (double); null without weight
  void* dweight;          // [V], float: a GPU adds the sum of the partials to it
};

constexpr int64_t kHeadNormBlock = 64;  // rows whose weight gradients are added up together; fixed

CEILING_CPU_KERNEL(head_norm_gate_forward, HeadNormGateParams);   // over rows
CEILING_CPU_KERNEL(head_norm_gate_backward, HeadNormGateParams);  // over blocks

}  // namespace ceiling
