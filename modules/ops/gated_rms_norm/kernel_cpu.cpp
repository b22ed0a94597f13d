// RMSNorm of x silu(gate) on a CPU. Bound: memory; one pass each way, in which a group's products
// are made twice instead of being kept.
#include "modules/ops/cpu_activation.h"
#include "modules/ops/gated_rms_norm/kernels.h"

namespace ceiling::CEILING_ISA {

namespace {

template <class A, class T>
inline A gated_at(const T* x, const T* gate, int64_t j) {
  return load(x, j) * activate<Activation::kSilu>(load(gate, j)).value;
}
template <class A, class T>
inline A reciprocal_rms(const T* x, const T* gate, int64_t dim, double eps) {
  const A square = lane_sum<A>(dim, [&](int64_t j) {
    const A s = gated_at<A>(x, gate, j);
    return s * s;
  });
  return A(1) / static_cast<A>(sqrt(square / static_cast<A>(dim) + static_cast<A>(eps)));
}

}  // namespace

void gated_rms_norm_forward(const GatedRmsNormParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t width = p.groups * p.dim;
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t first = 0; first < width; first += p.dim) {
        const T* x = static_cast<const T*>(p.x) + row * width + first;
        const T* gate = static_cast<const T*>(p.gate) + row * p.gate_stride + first;
        const T* weight = static_cast<const T*>(p.weight) + first;
        T* y = static_cast<T*>(p.y) + row * width + first;
        const A rstd = reciprocal_rms<A>(x, gate, p.dim, p.eps);
#pragma GCC ivdep
        for (int64_t j = 0; j < p.dim; ++j)
          store(y, j, gated_at<A>(x, gate, j) * rstd * load(weight, j));
      }
    }
  });
}

// With a = silu(gate), s = x a, n = s rstd, h = dy w:  ds = rstd (h - n mean(h n)),  dx = ds a,
// dgate = ds x a',  dw = sum dy n.
void gated_rms_norm_backward(const GatedRmsNormParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t width = p.groups * p.dim;
    for (int64_t block = begin; block < end; ++block) {
      A* partial = static_cast<A*>(p.dweight_partial) + block * width;
      for (int64_t j = 0; j < width; ++j) partial[j] = 0;
      const int64_t last =
          (block + 1) * kGatedNormBlock < p.rows ? (block + 1) * kGatedNormBlock : p.rows;
      for (int64_t row = block * kGatedNormBlock; row < last; ++row) {
        for (int64_t first = 0; first < width; first += p.dim) {
          const int64_t at = row * width + first;
          const T* x = static_cast<const T*>(p.x) + at;
          const T* gate = static_cast<const T*>(p.gate) + row * p.gate_stride + first;
          const T* weight = static_cast<const T*>(p.weight) + first;
          const T* dy = static_cast<const T*>(p.dy) + at;
          T *dx = static_cast<T*>(p.dx) + at, *dgate = static_cast<T*>(p.dgate) + at;
          A* dweight = partial + first;
          const A rstd = reciprocal_rms<A>(x, gate, p.dim, p.eps);
          const A dot = lane_sum<A>(p.dim, [&](int64_t j) {
            return load(dy, j) * load(weight, j) * gated_at<A>(x, gate, j);
          });
          const A mean = dot * rstd / static_cast<A>(p.dim);
#pragma GCC ivdep
          for (int64_t j = 0; j < p.dim; ++j) {
            const auto a = activate<Activation::kSilu>(load(gate, j));
            const A n = load(x, j) * a.value * rstd;
            const A ds = rstd * (load(dy, j) * load(weight, j) - n * mean);
            dweight[j] += load(dy, j) * n;
            store(dgate, j, ds * load(x, j) * a.slope);
            store(dx, j, ds * a.value);
          }
        }
      }
    }
  });
}

}  // namespace ceiling::CEILING_ISA
