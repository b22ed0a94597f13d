// RetNet's epilogue on a CPU: norm of each head's output, times weight, times the gate's
// activation. One pass each way; the norm is computed again in the backward pass instead of being
// kept.
#include "modules/ops/cpu_activation.h"
#include "modules/ops/head_norm_gate/kernels.h"

namespace ceiling::CEILING_ISA {

namespace {
template <class A, class T>
inline A reciprocal_rms(const T* o, int64_t dim, double eps) {
  const A square = lane_sum<A>(dim, [&](int64_t j) { return load(o, j) * load(o, j); });
  return A(1) / static_cast<A>(sqrt(square / static_cast<A>(dim) + static_cast<A>(eps)));
}
}  // namespace

void head_norm_gate_forward(const HeadNormGateParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    with_activation(p.activation, [&](auto kind) {
      using T = typename decltype(tag)::type;
      using A = Acc<T>;
      const T* weight = static_cast<const T*>(p.weight);
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t h = 0; h < p.heads; ++h) {
          const T* o = static_cast<const T*>(p.o) + (row * p.heads + h) * p.dim;
          const T* gate = static_cast<const T*>(p.gate) + row * p.gate_stride + h * p.dim;
          T* y = static_cast<T*>(p.y) + (row * p.heads + h) * p.dim;
          const A rstd = reciprocal_rms<A>(o, p.dim, p.eps);
          if (weight) {
#pragma GCC ivdep
            for (int64_t j = 0; j < p.dim; ++j)
              store(y, j,
                    load(o, j) * rstd * load(weight, j) *
                        activate<decltype(kind)::value>(load(gate, j)).value);
          } else {
#pragma GCC ivdep
            for (int64_t j = 0; j < p.dim; ++j)
              store(y, j, load(o, j) * rstd * activate<decltype(kind)::value>(load(gate, j)).value);
          }
        }
      }
    });
  });
}

// With n = o rstd, s = act(gate), h = dy s w:  do = rstd (h - n mean(h n)),  dgate = dy n w s',  dw
// = sum dy s n.
void head_norm_gate_backward(const HeadNormGateParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    with_activation(p.activation, [&](auto kind) {
      using T = typename decltype(tag)::type;
      using A = Acc<T>;
      const T* weight = static_cast<const T*>(p.weight);
      for (int64_t block = begin; block < end; ++block) {
        A* dweight = weight ? static_cast<A*>(p.dweight_partial) + block * p.dim : nullptr;
        for (int64_t j = 0; weight && j < p.dim; ++j) dweight[j] = 0;
        const int64_t last =
            (block + 1) * kHeadNormBlock < p.rows ? (block + 1) * kHeadNormBlock : p.rows;
        for (int64_t row = block * kHeadNormBlock; row < last; ++row) {
          for (int64_t h = 0; h < p.heads; ++h) {
            const int64_t at = (row * p.heads + h) * p.dim;
            const T* o = static_cast<const T*>(p.o) + at;
            const int64_t gate_at = row * p.gate_stride + h * p.dim;
            const T* gate = static_cast<const T*>(p.gate) + gate_at;
            const T* dy = static_cast<const T*>(p.dy) + at;
            T* d_o = static_cast<T*>(p.d_o) + at;
            T* dgate = static_cast<T*>(p.dgate) + (p.dgate_as_gate ? gate_at : at);
            const A rstd = reciprocal_rms<A>(o, p.dim, p.eps);
            const auto term = [&](int64_t j) {
              return load(dy, j) * activate<decltype(kind)::value>(load(gate, j)).value *
                     load(o, j);
            };
            // A branch outside the loops: inside it would keep them from becoming vector code.
            const A dot =
                weight ? lane_sum<A>(p.dim, [&](int64_t j) { return term(j) * load(weight, j); })
                       : lane_sum<A>(p.dim, term);
            const A mean = dot * rstd / static_cast<A>(p.dim);
            const auto element = [&](int64_t j, A w) {
              const auto a = activate<decltype(kind)::value>(load(gate, j));
              const A n = load(o, j) * rstd, d = load(dy, j), through = d * a.value;
              store(dgate, j, d * n * w * a.slope);
              store(d_o, j, rstd * (through * w - n * mean));
              return through * n;
            };
            if (weight) {
#pragma GCC ivdep
              for (int64_t j = 0; j < p.dim; ++j) dweight[j] += element(j, load(weight, j));
            } else {
#pragma GCC ivdep
              for (int64_t j = 0; j < p.dim; ++j) element(j, A(1));
            }
          }
        }
      }
    });
  });
}

}  // namespace ceiling::CEILING_ISA
