// RMSNorm on a CPU. Bound: memory; one pass over each row (which stays in L1) forward, one
// backward.
#include "modules/ops/cpu_math.h"
#include "modules/ops/rms_norm/kernels.h"

namespace ceiling::CEILING_ISA {

void rms_norm_forward(const RmsNormParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const T* weight = static_cast<const T*>(p.weight);
    for (int64_t row = begin; row < end; ++row) {
      const T* x = static_cast<const T*>(p.x) + row * p.dim;
      if (p.residual) {
        const T* residual = static_cast<const T*>(p.residual) + row * p.dim;
        T* sum = static_cast<T*>(p.sum) + row * p.dim;
        for (int64_t j = 0; j < p.dim; ++j) store(sum, j, load(x, j) + load(residual, j));
        x = sum;  // normalise what is stored, rounding included
      }
      T* y = static_cast<T*>(p.y) + row * p.dim;
      const A square = lane_sum<A>(p.dim, [&](int64_t j) { return load(x, j) * load(x, j); });
      const A rstd =
          A(1) / static_cast<A>(sqrt(square / static_cast<A>(p.dim) + static_cast<A>(p.eps)));
      static_cast<A*>(p.rstd)[row] = rstd;
      for (int64_t j = 0; j < p.dim; ++j) store(y, j, load(x, j) * rstd * load(weight, j));
    }
  });
}

// With xhat = x rstd, h = dy w:  dx = rstd (h - xhat mean(h xhat)),  dw = sum dy xhat.
void rms_norm_backward(const RmsNormParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const T* weight = static_cast<const T*>(p.weight);
    for (int64_t block = begin; block < end; ++block) {
      A* dweight = static_cast<A*>(p.dweight_partial) + block * p.dim;
      for (int64_t j = 0; j < p.dim; ++j) dweight[j] = 0;
      const int64_t last =
          (block + 1) * kRmsNormBlock < p.rows ? (block + 1) * kRmsNormBlock : p.rows;
      for (int64_t row = block * kRmsNormBlock; row < last; ++row) {
        const T* x = static_cast<const T*>(p.x) + row * p.dim;
        const T* dy = static_cast<const T*>(p.dy) + row * p.dim;
        T* dx = static_cast<T*>(p.dx) + row * p.dim;
        const A rstd = static_cast<const A*>(p.rstd)[row];
        const A dot = lane_sum<A>(
            p.dim, [&](int64_t j) { return load(dy, j) * load(weight, j) * load(x, j); });
        const A mean = dot * rstd / static_cast<A>(p.dim);
        const T* dsum = p.dsum ? static_cast<const T*>(p.dsum) + row * p.dim : nullptr;
        for (int64_t j = 0; j < p.dim; ++j) {
          const A xhat = load(x, j) * rstd;
          dweight[j] += load(dy, j) * xhat;
          const A through = rstd * (load(dy, j) * load(weight, j) - xhat * mean);
          store(dx, j, dsum ? through + load(dsum, j) : through);
        }
      }
    }
  });
}

}  // namespace ceiling::CEILING_ISA
