#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct CrossEntropyParams {
  CpuType type;
  int64_t width, vocab_size;  // columns of the logits, and how many of them count
  double scale, z_loss, logit_cap;
  bool want_grad;
  void* logits;        // [rows, width]; replaced by scale * d loss / d logits if want_grad
  const int* targets;  // [rows], -1 = ignored
  void* loss;          // [rows], float (double): token losses
  void* z;             // [rows]: log sum exp
};

CEILING_CPU_KERNEL(cross_entropy, CrossEntropyParams);  // over rows

}  // namespace ceiling
