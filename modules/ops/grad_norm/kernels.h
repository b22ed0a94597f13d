#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct SquaredNormParams {
  CpuType type;  // kFloat or kDouble
  int64_t n;
  const void* flat;  // [n]
  double* partial;   // one per block of kSquaredNormBlock elements
};

constexpr int64_t kSquaredNormBlock = 1 << 14;

CEILING_CPU_KERNEL(squared_norm_blocks, SquaredNormParams);  // over blocks

}  // namespace ceiling
