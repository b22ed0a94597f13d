// Rotation on a CPU. Bound: memory; q and k are read once and written once, from where the
// projection left them.
#include "modules/ops/cpu_math.h"
#include "modules/ops/rotary/kernels.h"

namespace ceiling::CEILING_ISA {

namespace {

// out = rotation of in by the angle of (cos, sign * sin), times scale.
template <class T, class A>
inline void rotate(const RotaryParams& p, const T* in, T* out, const A* cosine, const A* sine,
                   A sign, A scale) {
  const int64_t half = p.turned / 2;
  for (int64_t i = p.turned; i < p.head_dim; ++i) store(out, i, scale * load(in, i));
  if (p.interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const A c = cosine[i] * scale, s = sine[i] * sign * scale, a = load(in, 2 * i),
              b = load(in, 2 * i + 1);
      store(out, 2 * i, a * c - b * s);
      store(out, 2 * i + 1, b * c + a * s);
    }
    return;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < half; ++i) {
    const A c = cosine[i] * scale, s = sine[i] * sign * scale, a = load(in, i),
            b = load(in, i + half);
    store(out, i, a * c - b * s);
    store(out, i + half, b * c + a * s);
  }
}

template <class A>
struct Angles {
  const A *cosine, *sine;
};
template <class A>
inline Angles<A> angles_of(const RotaryParams& p, int64_t row) {
  const int64_t position = p.position ? p.position[row] : row % p.seq_len;
  const A* cosine = static_cast<const A*>(p.table) + position * p.turned;
  return {cosine, cosine + p.turned / 2};
}

}  // namespace

void rotary_forward(const RotaryParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    for (int64_t row = begin; row < end; ++row) {
      const auto [cosine, sine] = angles_of<A>(p, row);
      const T* x = static_cast<const T*>(p.x) + row * p.width;
      for (int64_t h = 0; h < p.n_q_heads + p.n_k_heads; ++h) {
        const bool is_q = h < p.n_q_heads;
        T* out = is_q ? static_cast<T*>(p.q) + (row * p.n_q_heads + h) * p.head_dim
                      : static_cast<T*>(p.k) + (row * p.n_k_heads + h - p.n_q_heads) * p.head_dim;
        rotate<T, A>(p, x + h * p.head_dim, out, cosine, sine, A(1),
                     static_cast<A>(is_q ? p.q_scale : p.k_scale));
      }
    }
  });
}

void rotary_backward(const RotaryParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    for (int64_t row = begin; row < end; ++row) {
      const auto [cosine, sine] = angles_of<A>(p, row);
      const int64_t b = row / p.seq_len, t = row % p.seq_len;
      const auto at = [b, t](const RotaryGradient& grad) {
        return grad.data
                   ? static_cast<const T*>(grad.data) + b * grad.batch_stride + t * grad.time_stride
                   : nullptr;
      };
      T* out = static_cast<T*>(p.dx) + row * p.width;
      const auto turn = [&](const RotaryGradient& grad, int64_t n_heads, double scale) {
        const T* in = at(grad);
        for (int64_t h = 0; h < n_heads; ++h, out += p.head_dim)
          if (in)
            rotate<T, A>(p, in + h * grad.head_stride, out, cosine, sine, A(-1),
                         static_cast<A>(scale));
          else
            for (int64_t i = 0; i < p.head_dim; ++i) out[i] = 0;
      };
      turn(p.dq, p.n_q_heads, p.q_scale);
      turn(p.dk, p.n_k_heads, p.k_scale);
      for (int64_t part = 0; part < p.n_rest; ++part) {
        const T* in = at(p.drest[part]);
        out = static_cast<T*>(p.dx) + row * p.width + p.rest_first[part];
        for (int64_t i = 0; i < p.rest_width[part]; ++i) out[i] = in ? in[i] : T(0);
      }
    }
  });
}

}  // namespace ceiling::CEILING_ISA
