#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct RmsNormParams {
  CpuType type;
  int64_t rows;
  int64_t dim;  // D
  double eps;
  const void* x;         // [rows, D]
  const void* residual;  // [rows, D] or null: forward normalises x + residual
  void* sum;             // [rows, D]: x + residual, written if residual is given
  const void* weight;    // [D]
  void* y;               // [rows, D]
  void* rstd;            // [rows], float (double for kDouble)
  // Backward: x is what was normalised.
  const void* dy;    // [rows, D]
  const void* dsum;  // [rows, D] or null: gradient that arrives at the sum directly
  void* dx;          // [rows, D]
  int64_t partials;  // a CPU: one for each block of kRmsNormBlock rows; a GPU: room for so many
  void* dweight_partial;  // [partials, D], float (double)
  void* dweight;          // [D], float: a GPU adds the sum of the partials to it
};

// Rows whose weight gradients are added up together; fixed, so the result does not depend on the
// number of threads.
constexpr int64_t kRmsNormBlock = 64;

CEILING_CPU_KERNEL(rms_norm_forward, RmsNormParams);   // over rows
CEILING_CPU_KERNEL(rms_norm_backward, RmsNormParams);  // over blocks; the last block ends at `rows`

}  // namespace ceiling
