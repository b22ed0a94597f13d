#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct AdamwParams {
  CpuType type;  // of master, grad, m, v: kFloat or kDouble
  void *master, *grad, *m, *v;
  unsigned short* compute;  // bfloat16 or null
  double decay_factor;      // 1 - lr' wd
  double step_size;         // lr' / (1 - b1^t)
  double root_correction;   // 1 / sqrt(1 - b2^t)
  double beta1, beta2, eps, grad_scale;
  int64_t begin, end;  // of the group (CUDA: the launch covers it)
};

CEILING_CPU_KERNEL(adamw_update, AdamwParams);  // over elements

}  // namespace ceiling
