#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct LayerNormParams {
  CpuType type;
  int64_t rows;
  int64_t dim;  // D
  double eps;
  const void* x;       // [rows, D]
  const void* weight;  // [D]
  const void* bias;    // [D] or null
  void* y;             // [rows, D]
  void* mean;          // [rows], float (double for kDouble)
  void* rstd;          // [rows], float (double)
  // Backward.
  const void* dy;    // [rows, D]
  void* dx;          // [rows, D]
  int64_t partials;  // a CPU: one for each block of kLayerNormBlock rows; a GPU: room for so many
  void* dweight_partial;  // [partials, D], float (double)
  void* dbias_partial;    // [partials, D] or null, float (double)
  void *dweight, *dbias;  // [D], float, the latter or null: a GPU adds the sums of the partials
};

// Rows whose weight gradients are added up together; fixed, so the result does not depend on the
// number of threads.
constexpr int64_t kLayerNormBlock = 64;

CEILING_CPU_KERNEL(layer_norm_forward, LayerNormParams);   // over rows
CEILING_CPU_KERNEL(layer_norm_backward, LayerNormParams);  // over blocks; the last ends at `rows`

}  // namespace ceiling
