// Gated activation on a CPU. Bound: memory (3 F elements per row forward, 5 F backward); exp is
// vectorised.
#include "modules/ops/cpu_activation.h"
#include "modules/ops/gated/kernels.h"

namespace ceiling::CEILING_ISA {

void gated_forward(const GatedParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    with_activation(p.activation, [&](auto kind) {
      using T = typename decltype(tag)::type;
      for (int64_t row = begin; row < end; ++row) {
        const T* gate = static_cast<const T*>(p.gate) + row * p.stride;
        const T* up = static_cast<const T*>(p.up) + row * p.stride;
        T* y = static_cast<T*>(p.y) + row * p.width;
#pragma GCC ivdep
        for (int64_t j = 0; j < p.width; ++j)
          store(y, j, activate<decltype(kind)::value>(load(gate, j)).value * load(up, j));
      }
    });
  });
}

void gated_backward(const GatedParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    with_activation(p.activation, [&](auto kind) {
      using T = typename decltype(tag)::type;
      for (int64_t row = begin; row < end; ++row) {
        const T* gate = static_cast<const T*>(p.gate) + row * p.stride;
        const T* up = static_cast<const T*>(p.up) + row * p.stride;
        const T* dy = static_cast<const T*>(p.dy) + row * p.width;
        T* dgate = static_cast<T*>(p.dgate) + row * p.stride;
        T* dup = static_cast<T*>(p.dup) + row * p.stride;
#pragma GCC ivdep
        for (int64_t j = 0; j < p.width; ++j) {
          const auto a = activate<decltype(kind)::value>(load(gate, j));
          const auto d = load(dy, j);
          store(dgate, j, d * load(up, j) * a.slope);
          store(dup, j, d * a.value);
        }
      }
    });
  });
}

}  // namespace ceiling::CEILING_ISA
