// Diagonal recurrences on a CPU. A task walks through time with the states of up to 64 channels of
// one row in L1; vectors run over channels. Bound: memory for linear_scan, arithmetic for rg_lru
// (three exponentials, two divisions and a root per element, again in the backward pass).
#include "modules/ops/cpu_math.h"
#include "modules/ops/linear_scan/kernels.h"

namespace ceiling::CEILING_ISA {

namespace {

inline double root(double x) { return __builtin_sqrt(x); }
inline float root(float x) { return __builtin_sqrtf(x); }

// 1 - e^u for u <= 0, without loss where u is small.
inline double one_minus_exp(double u, double /*exp_u*/) { return -::expm1(u); }
inline float one_minus_exp(float u, float exp_u) {
  float p = 1.3888889e-3f;
  p = p * u + 8.3333333e-3f;
  p = p * u + 4.1666667e-2f;
  p = p * u + 1.6666667e-1f;
  p = p * u + 0.5f;
  p = p * u + 1.0f;
  return u > -0.25f ? -u * p : 1.0f - exp_u;
}

// The rows of a tensor at one time.
template <class T>
inline const T* row_of(const ScanRows& rows, int64_t b, int64_t t, int64_t first) {
  return static_cast<const T*>(rows.data) + b * rows.batch_stride + t * rows.time_stride + first;
}

template <class A>
struct Step {
  A decay, add;
};

// Gates tell what happens at one token: h = decay h + add, and what a gradient at h, with the state
// before it, means for their inputs.

// linear_scan: decay and add are given.
template <class T>
struct Given {
  using A = Acc<T>;
  static constexpr int kInputs = 2;
  Given(const LinearScanParams&, int64_t, int64_t) {}

  template <bool kStart>
  Step<A> step(const T* const (&in)[kScanInputs], int64_t c) const {
    return {load(in[0], c), load(in[1], c)};
  }
  template <bool kStart>
  A backward(const T* const (&in)[kScanInputs], T* const (&din)[kScanInputs], int64_t c, A g,
             A before) {
    store(din[0], c, kStart ? A(0) : g * before);
    store(din[1], c, g);
    return kStart ? A(0) : load(in[0], c) * g;
  }
  void put(const LinearScanParams&, int64_t, int64_t, int64_t) const {}
};

// rg_lru.
template <class T>
struct RgLru {
  using A = Acc<T>;
  static constexpr int kInputs = 3;

  RgLru(const LinearScanParams& p, int64_t first, int64_t n) {
    const A* lambda = static_cast<const A*>(p.parameter[0]) + first;
    for (int64_t c = 0; c < n; ++c) {
      const double x = static_cast<double>(lambda[c]);
      const double softplus = (x > 0 ? x : 0) + ::log1p(::exp(x > 0 ? -x : x));
      log_decay[c] = static_cast<A>(-8 * softplus);
      slope[c] = static_cast<A>(-8 / (1 + ::exp(-x)));
      bias[0][c] = static_cast<const A*>(p.parameter[1])[first + c];
      bias[1][c] = static_cast<const A*>(p.parameter[2])[first + c];
      for (auto& sums : dparameter) sums[c] = 0;
    }
  }

  template <bool kStart>
  Step<A> step(const T* const (&in)[kScanInputs], int64_t c) const {
    const A gated = sigmoid(load(in[2], c) + bias[1][c]) * load(in[0], c);
    if (kStart) return {A(0), gated};
    const A log_a = sigmoid(load(in[1], c) + bias[0][c]) * log_decay[c], a = exponential(log_a);
    return {a, root(one_minus_exp(A(2) * log_a, a * a)) * gated};
  }

  template <bool kStart>
  A backward(const T* const (&in)[kScanInputs], T* const (&din)[kScanInputs], int64_t c, A g,
             A before) {
    const A x = load(in[0], c), i = sigmoid(load(in[2], c) + bias[1][c]);
    const A r = sigmoid(load(in[1], c) + bias[0][c]), log_a = r * log_decay[c];
    const A a = exponential(log_a), left = one_minus_exp(A(2) * log_a, a * a);
    const A scale = kStart ? A(1) : root(left);
    const A least = A(1e-6), bounded = A(4) * left > least ? A(4) * left : least;
    const A dlog_a = kStart ? A(0) : a * (g * before - A(2) * a * (g * i * x / root(bounded)));
    const A dr = dlog_a * log_decay[c] * r * (A(1) - r);
    const A di = g * scale * x * i * (A(1) - i);
    store(din[0], c, g * scale * i);
    store(din[1], c, dr);
    store(din[2], c, di);
    dparameter[0][c] += dlog_a * r * slope[c];
    dparameter[1][c] += dr;
    dparameter[2][c] += di;
    return kStart ? A(0) : a * g;
  }

  void put(const LinearScanParams& p, int64_t b, int64_t first, int64_t n) const {
    A* out = static_cast<A*>(p.dparameter_partial) + b * 3 * p.dim + first;
    for (int64_t k = 0; k < 3; ++k)
      for (int64_t c = 0; c < n; ++c) out[k * p.dim + c] = dparameter[k][c];
  }

  // -8 softplus(lambda), its derivative by lambda, the biases; gradients of lambda and the biases.
  A log_decay[kScanChannels], slope[kScanChannels], bias[2][kScanChannels];
  A dparameter[3][kScanChannels];
};

inline bool starts_at(const LinearScanParams& p, int64_t b, int64_t t) {
  return (t == 0 && !p.state_in) || (p.start && p.start[b * p.seq_len + t]);
}

template <class T, template <class> class Gates>
void forward(const LinearScanParams& p, int64_t b, int64_t first, int64_t n) {
  using A = Acc<T>;
  const Gates<T> gates(p, first, n);
  A h[kScanChannels];
  for (int64_t c = 0; c < n; ++c)
    h[c] = p.state_in ? static_cast<const A*>(p.state_in)[b * p.dim + first + c] : A(0);
  for (int64_t t = 0; t < p.seq_len; ++t) {
    const T* in[kScanInputs] = {};
    for (int k = 0; k < Gates<T>::kInputs; ++k) in[k] = row_of<T>(p.input[k], b, t, first);
    T* out = static_cast<T*>(p.h) + (b * p.seq_len + t) * p.dim + first;
    if (starts_at(p, b, t)) {
#pragma GCC ivdep
      for (int64_t c = 0; c < n; ++c) {
        h[c] = gates.template step<true>(in, c).add;
        store(out, c, h[c]);
      }
      continue;
    }
#pragma GCC ivdep
    for (int64_t c = 0; c < n; ++c) {
      const Step<A> step = gates.template step<false>(in, c);
      h[c] = step.decay * h[c] + step.add;
      store(out, c, h[c]);
    }
  }
  for (int64_t c = 0; c < n; ++c) static_cast<A*>(p.state_out)[b * p.dim + first + c] = h[c];
}

// g_t = dh_t + a_{t+1} g_{t+1}, from the last token to the first.
template <class T, template <class> class Gates>
void backward(const LinearScanParams& p, int64_t b, int64_t first, int64_t n) {
  using A = Acc<T>;
  Gates<T> gates(p, first, n);
  const A* state = p.state_in ? static_cast<const A*>(p.state_in) + b * p.dim + first : nullptr;
  A carry[kScanChannels], before[kScanChannels];
  for (int64_t c = 0; c < n; ++c)
    carry[c] = p.dstate_out ? static_cast<const A*>(p.dstate_out)[b * p.dim + first + c] : A(0);
  for (int64_t t = p.seq_len - 1; t >= 0; --t) {
    const T* in[kScanInputs] = {};
    T* din[kScanInputs] = {};
    const int64_t row = (b * p.seq_len + t) * p.dim + first;
    for (int k = 0; k < Gates<T>::kInputs; ++k) {
      in[k] = row_of<T>(p.input[k], b, t, first);
      din[k] = static_cast<T*>(p.dinput[k]) + row;
    }
    const T* dh = row_of<T>(p.dh, b, t, first);
    if (starts_at(p, b, t)) {
#pragma GCC ivdep
      for (int64_t c = 0; c < n; ++c)
        carry[c] = gates.template backward<true>(in, din, c, load(dh, c) + carry[c], A(0));
      continue;
    }
    const T* h = static_cast<const T*>(p.h) + row - p.dim;
    for (int64_t c = 0; c < n; ++c) before[c] = t > 0 ? load(h, c) : state[c];
#pragma GCC ivdep
    for (int64_t c = 0; c < n; ++c)
      carry[c] = gates.template backward<false>(in, din, c, load(dh, c) + carry[c], before[c]);
  }
  if (p.dstate_in)
    for (int64_t c = 0; c < n; ++c) static_cast<A*>(p.dstate_in)[b * p.dim + first + c] = carry[c];
  gates.put(p, b, first, n);
}

template <class Body>
void run_tasks(const LinearScanParams& p, int64_t begin, int64_t end, const Body& body) {
  const int64_t blocks = (p.dim + kScanChannels - 1) / kScanChannels;
  with_type(p.type, [&](auto tag) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kScanChannels;
      body(tag, task / blocks, first,
           p.dim - first < kScanChannels ? p.dim - first : kScanChannels);
    }
  });
}

}  // namespace

void linear_scan_forward(const LinearScanParams& p, int64_t begin, int64_t end) {
  run_tasks(p, begin, end, [&](auto tag, int64_t b, int64_t first, int64_t n) {
    forward<typename decltype(tag)::type, Given>(p, b, first, n);
  });
}
void linear_scan_backward(const LinearScanParams& p, int64_t begin, int64_t end) {
  run_tasks(p, begin, end, [&](auto tag, int64_t b, int64_t first, int64_t n) {
    backward<typename decltype(tag)::type, Given>(p, b, first, n);
  });
}
void rg_lru_forward(const LinearScanParams& p, int64_t begin, int64_t end) {
  run_tasks(p, begin, end, [&](auto tag, int64_t b, int64_t first, int64_t n) {
    forward<typename decltype(tag)::type, RgLru>(p, b, first, n);
  });
}
void rg_lru_backward(const LinearScanParams& p, int64_t begin, int64_t end) {
  run_tasks(p, begin, end, [&](auto tag, int64_t b, int64_t first, int64_t n) {
    backward<typename decltype(tag)::type, RgLru>(p, b, first, n);
  });
}

}  // namespace ceiling::CEILING_ISA
