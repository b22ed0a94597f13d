// Causal convolution on a CPU. Bound: memory; each task walks through a piece of time, all channels
// of a token at once, and the taps' rows stay in L1. A tap that is out of reach reads zeros, so a
// not-a-number of one document does not reach another.
#include "modules/ops/causal_conv1d/kernels.h"
#include "modules/ops/cpu_math.h"

namespace ceiling::CEILING_ISA {

namespace {

template <class T, int W>
class Piece {
 public:
  using A = Acc<T>;
  Piece(const CausalConv1dParams& p, int64_t task) : p_(p) {
    const int64_t blocks = conv_blocks(p.seq_len);
    b_ = task / blocks;
    first_ = task % blocks * kConvBlock;
    end_ = first_ + kConvBlock < p.seq_len ? first_ + kConvBlock : p.seq_len;
    for (int k = 0; k < W; ++k) weight_[k] = static_cast<const A*>(p.weight) + k * p.channels;
    bias_ = static_cast<const A*>(p.bias);
  }

  void forward() const {
    for (int64_t t = first_; t < end_; ++t) {
      const T* taps[W];
      find_taps(t, taps);
      T* y = static_cast<T*>(p_.y) + (b_ * p_.seq_len + t) * p_.channels;
      if (p_.silu) {
#pragma GCC ivdep
        for (int64_t c = 0; c < p_.channels; ++c) {
          const A sum = weighted(taps, c);
          store(y, c, sum * sigmoid(sum));
        }
      } else {
#pragma GCC ivdep
        for (int64_t c = 0; c < p_.channels; ++c) store(y, c, weighted(taps, c));
      }
    }
    if (end_ == p_.seq_len) keep_last();
  }

  // Gradients at the sums of W tokens pass through a ring; the gradient of an input needs its own
  // and the W - 1 later ones. The first piece of a row also owns the inputs of the state.
  void backward(int64_t task) const {
    const int64_t n = p_.channels;
    A *ring = static_cast<A*>(p_.workspace), *nothing = ring + W * n;
    for (int64_t c = 0; c < n; ++c) nothing[c] = 0;
    A* partial = static_cast<A*>(p_.partial) + task * (W + 1) * n;
    for (int64_t i = 0; i < (W + 1) * n; ++i) partial[i] = 0;
    for (int64_t t = first_; t < end_ + W - 1; ++t) {
      if (t < p_.seq_len) {
        A* d = ring + t % W * n;
        at_sum(t, d);
        if (t < end_) add_weight_gradient(t, d, partial);
      }
      const int64_t s = t - (W - 1);
      if (s < 0 ? p_.dstate == nullptr : s < first_) continue;
      const A* readers[W];
      for (int j = 0; j < W; ++j)
        readers[j] = s + j >= 0 && s + j < p_.seq_len && reach(s + j) >= j ? ring + (s + j) % W * n
                                                                           : nothing;
      input_gradient(s, readers);
    }
  }

 private:
  // How many earlier tokens the t-th sees, at most W - 1.
  int reach(int64_t t) const {
    if (!p_.start) return W - 1;
    for (int j = 0; j < W - 1 && t >= j; ++j)
      if (p_.start[b_ * p_.seq_len + t - j]) return j;
    return W - 1;
  }
  const T* row(int64_t t) const {
    if (t >= 0) return static_cast<const T*>(p_.x) + b_ * p_.x_batch_stride + t * p_.x_time_stride;
    const T* state = static_cast<const T*>(p_.state);
    return state ? state + (b_ * (W - 1) + t + W - 1) * p_.channels
                 : static_cast<const T*>(p_.zeros);
  }
  void find_taps(int64_t t, const T* (&taps)[W]) const {
    const int seen = reach(t);
    for (int j = 0; j < W; ++j)
      taps[W - 1 - j] = j <= seen ? row(t - j) : static_cast<const T*>(p_.zeros);
  }
  A weighted(const T* const (&taps)[W], int64_t c) const {
    A sum = bias_[c];
#pragma GCC unroll 4
    for (int k = 0; k < W; ++k) sum += weight_[k][c] * load(taps[k], c);
    return sum;
  }
  // The last W - 1 inputs, those before the present document left out.
  void keep_last() const {
    const int seen = reach(p_.seq_len - 1);
    T* out = static_cast<T*>(p_.state_out) + b_ * (W - 1) * p_.channels;
    for (int j = 0; j < W - 1; ++j) {
      const T* from = j <= seen ? row(p_.seq_len - 1 - j) : static_cast<const T*>(p_.zeros);
      for (int64_t c = 0; c < p_.channels; ++c) out[(W - 2 - j) * p_.channels + c] = from[c];
    }
  }

  void at_sum(int64_t t, A* d) const {
    const T* dy = static_cast<const T*>(p_.dy) + (b_ * p_.seq_len + t) * p_.channels;
    if (!p_.silu) {
      for (int64_t c = 0; c < p_.channels; ++c) d[c] = load(dy, c);
      return;
    }
    const T* taps[W];
    find_taps(t, taps);
#pragma GCC ivdep
    for (int64_t c = 0; c < p_.channels; ++c) {
      const A sum = weighted(taps, c), s = sigmoid(sum);
      d[c] = load(dy, c) * s * (A(1) + sum * (A(1) - s));
    }
  }
  void add_weight_gradient(int64_t t, const A* d, A* partial) const {
    const T* taps[W];
    find_taps(t, taps);
    const int64_t n = p_.channels;
#pragma GCC ivdep
    for (int64_t c = 0; c < n; ++c) {
#pragma GCC unroll 4
      for (int k = 0; k < W; ++k) partial[k * n + c] += d[c] * load(taps[k], c);
      partial[W * n + c] += d[c];
    }
  }
  void input_gradient(int64_t s, const A* const (&readers)[W]) const {
    const int64_t n = p_.channels;
    T* dx = s >= 0 ? static_cast<T*>(p_.dx) + (b_ * p_.seq_len + s) * n
                   : static_cast<T*>(p_.dstate) + (b_ * (W - 1) + s + W - 1) * n;
    // What the final state keeps of this input.
    const int64_t age = p_.seq_len - 1 - s;
    const bool kept = p_.dstate_out && age < W - 1 && age <= reach(p_.seq_len - 1);
    const T* last = kept ? static_cast<const T*>(p_.dstate_out) + (b_ * (W - 1) + W - 2 - age) * n
                         : static_cast<const T*>(p_.zeros);
#pragma GCC ivdep
    for (int64_t c = 0; c < n; ++c) {
      A sum = load(last, c);
#pragma GCC unroll 4
      for (int j = 0; j < W; ++j) sum += weight_[W - 1 - j][c] * readers[j][c];
      store(dx, c, sum);
    }
  }

  const CausalConv1dParams& p_;
  int64_t b_, first_, end_;
  const A* weight_[W];
  const A* bias_;
};

template <class Body>
inline void for_pieces(const CausalConv1dParams& p, int64_t begin, int64_t end, const Body& body) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t task = begin; task < end; ++task) {
      if (p.width == 2)
        body(Piece<T, 2>(p, task), task);
      else if (p.width == 3)
        body(Piece<T, 3>(p, task), task);
      else
        body(Piece<T, 4>(p, task), task);
    }
  });
}

}  // namespace

void causal_conv1d_forward(const CausalConv1dParams& p, int64_t begin, int64_t end) {
  for_pieces(p, begin, end, [](const auto& piece, int64_t) { piece.forward(); });
}

void causal_conv1d_backward(const CausalConv1dParams& p, int64_t begin, int64_t end) {
  for_pieces(p, begin, end, [](const auto& piece, int64_t task) { piece.backward(task); });
}

}  // namespace ceiling::CEILING_ISA
