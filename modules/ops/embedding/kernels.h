#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct EmbeddingBackwardParams {
  CpuType type;
  int64_t n_tokens, dim;
  double scale;
  const int* tokens;  // [n]
  const void* dy;     // [n, D]
  void* grad;         // [rows, D], float (double)
};

// Over channels: a task owns a range of channels for all tokens, so no two tasks add to one
// element.
CEILING_CPU_KERNEL(embedding_backward, EmbeddingBackwardParams);

}  // namespace ceiling
