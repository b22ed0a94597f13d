#include "modules/ops/cpu_math.h"
#include "modules/ops/embedding/kernels.h"

namespace ceiling::CEILING_ISA {

void embedding_backward(const EmbeddingBackwardParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const A scale = static_cast<A>(p.scale);
    for (int64_t n = 0; n < p.n_tokens; ++n) {
      const T* dy = static_cast<const T*>(p.dy) + n * p.dim;
      A* grad = static_cast<A*>(p.grad) + p.tokens[n] * p.dim;
#pragma GCC ivdep
      for (int64_t j = begin; j < end; ++j) grad[j] += scale * load(dy, j);
    }
  });
}

}  // namespace ceiling::CEILING_ISA
