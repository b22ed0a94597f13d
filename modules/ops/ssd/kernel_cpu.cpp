// Mamba-2's time steps and skip on a CPU. Bound: memory; x is read once before and once after the
// sweep.
#include "modules/ops/cpu_math.h"
#include "modules/ops/ssd/kernels.h"

namespace ceiling::CEILING_ISA {

namespace {

inline double softplus(double x) { return x > 20 ? x : ::log1p(::exp(x)); }
inline float softplus(float x) { return x > 20 ? x : ::log1pf(::expf(x)); }
inline double negative_exp(double x) { return -::exp(x); }
inline float negative_exp(float x) { return -::expf(x); }

template <class T>
const T* row_of(const SsdRows& rows, const SsdParams& p, int64_t token) {
  return static_cast<const T*>(rows.data) + token / p.seq_len * rows.batch_stride +
         token % p.seq_len * rows.time_stride;
}

template <class A>
struct Step {
  A delta, slope;  // Delta, and its derivative after dt
};
template <class A>
Step<A> step_of(const SsdParams& p, A dt, int64_t h) {
  const A pre = dt + static_cast<const A*>(p.dt_bias)[h];
  const A delta = softplus(pre), slope = pre > 20 ? A(1) : sigmoid(pre);
  const A low = static_cast<A>(p.dt_min), high = static_cast<A>(p.dt_max);
  if (delta < low) return {low, 0};
  if (delta > high) return {high, 0};
  return {delta, slope};
}

}  // namespace

void ssd_prepare(const SsdParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    for (int64_t token = begin; token < end; ++token) {
      const T *x = row_of<T>(p.x, p, token), *dt = row_of<T>(p.dt, p, token);
      T* v = static_cast<T*>(p.v) + token * p.heads * p.dim;
      A* log_decay = static_cast<A*>(p.log_decay) + token * p.heads;
      for (int64_t h = 0; h < p.heads; ++h, x += p.dim, v += p.dim) {
        const A delta = step_of<A>(p, load(dt, h), h).delta;
        log_decay[h] = delta * negative_exp(static_cast<const A*>(p.a_log)[h]);
#pragma GCC ivdep
        for (int64_t i = 0; i < p.dim; ++i) store(v, i, delta * load(x, i));
      }
    }
  });
}

void ssd_skip(const SsdParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    for (int64_t token = begin; token < end; ++token) {
      const T* x = row_of<T>(p.x, p, token);
      const A* o = static_cast<const A*>(p.o) + token * p.heads * p.dim;
      T* y = static_cast<T*>(p.y) + token * p.heads * p.dim;
      for (int64_t h = 0; h < p.heads; ++h, x += p.dim, o += p.dim, y += p.dim) {
        const A d = static_cast<const A*>(p.d)[h];
#pragma GCC ivdep
        for (int64_t i = 0; i < p.dim; ++i) store(y, i, o[i] + d * load(x, i));
      }
    }
  });
}

// dx = Delta dv + D dy,  dDelta = x . dv + A d(Delta A),  ddt = dDelta Delta';
// dA_log = sum A Delta d(Delta A),  dD = sum x . dy,  ddt_bias = sum ddt.
void ssd_backward(const SsdParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t tokens = p.batch * p.seq_len, width = p.heads * p.dim;
    for (int64_t block = begin; block < end; ++block) {
      A* partial = static_cast<A*>(p.partial) + block * 3 * p.heads;
      for (int64_t i = 0; i < 3 * p.heads; ++i) partial[i] = 0;
      const int64_t last = (block + 1) * kSsdBlock < tokens ? (block + 1) * kSsdBlock : tokens;
      for (int64_t token = block * kSsdBlock; token < last; ++token) {
        const T *x = row_of<T>(p.x, p, token), *dt = row_of<T>(p.dt, p, token),
                *dy = row_of<T>(p.dy, p, token);
        const T* dv = static_cast<const T*>(p.dv) + token * width;
        T* dx = static_cast<T*>(p.dx) + token * width;
        T* ddt = static_cast<T*>(p.ddt) + token * p.heads;
        for (int64_t h = 0; h < p.heads; ++h, x += p.dim, dy += p.dim, dv += p.dim, dx += p.dim) {
          const Step<A> step = step_of<A>(p, load(dt, h), h);
          const A a = negative_exp(static_cast<const A*>(p.a_log)[h]);
          const A d = static_cast<const A*>(p.d)[h];
          const A of_decay = static_cast<A>(p.d_log_decay[token * p.heads + h]);
          const A through_v =
              lane_sum<A>(p.dim, [&](int64_t i) { return load(x, i) * load(dv, i); });
          const A through_skip =
              lane_sum<A>(p.dim, [&](int64_t i) { return load(x, i) * load(dy, i); });
#pragma GCC ivdep
          for (int64_t i = 0; i < p.dim; ++i)
            store(dx, i, step.delta * load(dv, i) + d * load(dy, i));
          const A at_dt = (through_v + a * of_decay) * step.slope;
          store(ddt, h, at_dt);
          partial[h] += a * step.delta * of_decay;
          partial[p.heads + h] += through_skip;
          partial[2 * p.heads + h] += at_dt;
        }
      }
    }
  });
}

}  // namespace ceiling::CEILING_ISA
