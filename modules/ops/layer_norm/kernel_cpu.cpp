// LayerNorm on a CPU. Bound: memory; a row stays in L1 between the passes over it.
#include "modules/ops/cpu_math.h"
#include "modules/ops/layer_norm/kernels.h"

namespace ceiling::CEILING_ISA {

void layer_norm_forward(const LayerNormParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const T *weight = static_cast<const T*>(p.weight), *bias = static_cast<const T*>(p.bias);
    const A dim = static_cast<A>(p.dim);
    for (int64_t row = begin; row < end; ++row) {
      const T* x = static_cast<const T*>(p.x) + row * p.dim;
      T* y = static_cast<T*>(p.y) + row * p.dim;
      const A mean = lane_sum<A>(p.dim, [&](int64_t j) { return load(x, j); }) / dim;
      const A square =
          lane_sum<A>(p.dim, [&](int64_t j) { return (load(x, j) - mean) * (load(x, j) - mean); });
      const A rstd = A(1) / static_cast<A>(sqrt(square / dim + static_cast<A>(p.eps)));
      static_cast<A*>(p.mean)[row] = mean, static_cast<A*>(p.rstd)[row] = rstd;
      if (bias)
        for (int64_t j = 0; j < p.dim; ++j)
          store(y, j, (load(x, j) - mean) * rstd * load(weight, j) + load(bias, j));
      else
        for (int64_t j = 0; j < p.dim; ++j)
          store(y, j, (load(x, j) - mean) * rstd * load(weight, j));
    }
  });
}

// README.md has the formulas.
void layer_norm_backward(const LayerNormParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const T* weight = static_cast<const T*>(p.weight);
    const A dim = static_cast<A>(p.dim);
    for (int64_t block = begin; block < end; ++block) {
      A* dweight = static_cast<A*>(p.dweight_partial) + block * p.dim;
      A* dbias = p.dbias_partial ? static_cast<A*>(p.dbias_partial) + block * p.dim : nullptr;
      for (int64_t j = 0; j < p.dim; ++j) dweight[j] = 0;
      for (int64_t j = 0; dbias && j < p.dim; ++j) dbias[j] = 0;
      const int64_t last =
          (block + 1) * kLayerNormBlock < p.rows ? (block + 1) * kLayerNormBlock : p.rows;
      for (int64_t row = block * kLayerNormBlock; row < last; ++row) {
        const T* x = static_cast<const T*>(p.x) + row * p.dim;
        const T* dy = static_cast<const T*>(p.dy) + row * p.dim;
        T* dx = static_cast<T*>(p.dx) + row * p.dim;
        const A mean = static_cast<const A*>(p.mean)[row],
                rstd = static_cast<const A*>(p.rstd)[row];
        const A of_h =
            lane_sum<A>(p.dim, [&](int64_t j) { return load(dy, j) * load(weight, j); }) / dim;
        const A of_product =
            lane_sum<A>(
                p.dim,
                [&](int64_t j) { return load(dy, j) * load(weight, j) * (load(x, j) - mean); }) *
            rstd / dim;
        for (int64_t j = 0; j < p.dim; ++j) {
          const A xhat = (load(x, j) - mean) * rstd;
          dweight[j] += load(dy, j) * xhat;
          store(dx, j, rstd * (load(dy, j) * load(weight, j) - of_h - xhat * of_product));
        }
        for (int64_t j = 0; dbias && j < p.dim; ++j) dbias[j] += load(dy, j);
      }
    }
  });
}

}  // namespace ceiling::CEILING_ISA
