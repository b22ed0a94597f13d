// AdamW on a CPU. Bound: memory, 32 to 34 bytes per element in one pass.
#include "modules/ops/adamw/kernels.h"
#include "modules/ops/cpu_math.h"

namespace ceiling::CEILING_ISA {

namespace {
template <class A>
inline void update(const AdamwParams& p, int64_t begin, int64_t end) {
  A* __restrict w = static_cast<A*>(p.master), * __restrict g = static_cast<A*>(p.grad);
  A* __restrict m = static_cast<A*>(p.m), * __restrict v = static_cast<A*>(p.v);
  const A b1 = static_cast<A>(p.beta1), b2 = static_cast<A>(p.beta2), eps = static_cast<A>(p.eps);
  const A keep1 = static_cast<A>(1 - p.beta1), keep2 = static_cast<A>(1 - p.beta2),
          scale = static_cast<A>(p.grad_scale);
  const A decay = static_cast<A>(p.decay_factor), size = static_cast<A>(p.step_size),
          root = static_cast<A>(p.root_correction);
  const auto element = [&](int64_t i) {
    const A grad = g[i] * scale;
    m[i] = b1 * m[i] + keep1 * grad;
    v[i] = b2 * v[i] + keep2 * grad * grad;
    w[i] = w[i] * decay - size * m[i] / (static_cast<A>(sqrt(v[i])) * root + eps);
    g[i] = 0;
  };
  if (!p.compute) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) element(i);
    return;
  }
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) {
    element(i);
    store(p.compute, i, static_cast<float>(w[i]));
  }
}
}  // namespace

void adamw_update(const AdamwParams& p, int64_t begin, int64_t end) {
  if (p.type == CpuType::kDouble) return update<double>(p, begin, end);
  update<float>(p, begin, end);
}

}  // namespace ceiling::CEILING_ISA
