// Diagonal recurrences on a GPU. Bound: HBM. rg_lru in bfloat16 moves 8 bytes per element forward
//   and 16 backward (h is read again: to find it anew would save 2 bytes and cost a forward scan).
// Floor:  0.18 + 0.36 ms for 32,768 tokens x 2,048 at 3.0 TB/s.
// Layout: a block owns 32 packs of N channels of one row and walks through time in tiles of 64
//   tokens: 8 warps of 8 tokens each. A warp's loads are 128-byte lines. Each thread runs its 8
//   steps from zero; product of decays and end state of all 8 warps meet in shared memory, from
//   which each thread finds the state before its steps; then it runs them again, from registers.
//   All loads of a tile are in flight at once: 24 KB a block forward, 40 KB backward.
// Limits: where rows times channels give fewer than two blocks an SM, time is cut into segments; a
//   first pass finds what each does to a state, at the price of reading the inputs twice. Odd
//   widths or addresses take one channel a thread.
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/linear_scan/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kSteps = 8;  // tokens of a thread
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
static_assert(kSteps * kWarps == kGpuScanTile, "the host cuts time into whole tiles");

__device__ __forceinline__ float root(float x) {
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 - e^u for u <= 0, without loss where u is small.
__device__ __forceinline__ float one_minus_exp(float u, float exp_u) {
  float p = 1.3888889e-3f;
  p = p * u + 8.3333333e-3f;
  p = p * u + 4.1666667e-2f;
  p = p * u + 1.6666667e-1f;
  p = p * u + 0.5f;
  p = p * u + 1.0f;
  return u > -0.25f ? -u * p : 1.0f - exp_u;
}

// N neighbouring channels as loaded: two bfloat16 stay one register until they are used.
template <class T, int N>
struct Raw {
  Pack<T, N> pack;
  __device__ __forceinline__ float operator[](int i) const { return wide(pack.at[i]); }
};
template <>
struct Raw<bf16, 2> {
  unsigned pair;
  __device__ __forceinline__ float operator[](int i) const {
    return __uint_as_float(i == 0 ? pair << 16 : pair & 0xffff0000u);
  }
};
template <class T, int N>
using Steps = Raw<T, N>[kSteps];

// Gates tell what happens at one token of N channels, h = decay h + add, and what a gradient g at
// h, with the state before it, means for their inputs.

// linear_scan: decay and add are given.
template <class T, int N>
struct Given {
  static constexpr int kInputs = 2, kParameters = 0;
  __device__ Given(const LinearScanParams&, int64_t, bool) {}
  __device__ void decay(const Steps<T, N> (&in)[kInputs], int s, bool, float (&a)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = in[0][s][i];
  }
  __device__ void step(const Steps<T, N> (&in)[kInputs], int s, bool start, float (&a)[N],
                       float (&b)[N]) const {
    decay(in, s, start, a);
#pragma unroll
    for (int i = 0; i < N; ++i) b[i] = in[1][s][i];
  }
  __device__ void backward(const Steps<T, N> (&in)[kInputs], int s, bool start, const float (&)[N],
                           const float (&g)[N], const float (&before)[N],
                           float (&din)[kInputs][N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      din[0][i] = start ? 0.0f : g[i] * before[i];
      din[1][i] = g[i];
    }
  }
  float dparameter[1][N];
};

// rg_lru.
template <class T, int N>
struct RgLru {
  static constexpr int kInputs = 3, kParameters = 3;
  __device__ RgLru(const LinearScanParams& p, int64_t column, bool present) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const auto at = [&](int k) {
        return present ? static_cast<const float*>(p.parameter[k])[column + i] : 0.0f;
      };
      const float lambda = at(0);
      log_decay[i] = -8 * (fmaxf(lambda, 0) + log1pf(expf(-fabsf(lambda))));
      slope[i] = -8 / (1 + expf(-lambda));
      bias[0][i] = at(1), bias[1][i] = at(2);
#pragma unroll
      for (int k = 0; k < kParameters; ++k) dparameter[k][i] = 0;
    }
  }
  __device__ float recurrence(const Steps<T, N> (&in)[kInputs], int s, int i) const {
    return sigmoid(in[1][s][i] + bias[0][i]);
  }
  __device__ float input(const Steps<T, N> (&in)[kInputs], int s, int i) const {
    return sigmoid(in[2][s][i] + bias[1][i]);
  }
  __device__ void decay(const Steps<T, N> (&in)[kInputs], int s, bool, float (&a)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = __expf(recurrence(in, s, i) * log_decay[i]);
  }
  __device__ void step(const Steps<T, N> (&in)[kInputs], int s, bool start, float (&a)[N],
                       float (&b)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float log_a = recurrence(in, s, i) * log_decay[i];
      a[i] = __expf(log_a);
      const float scale = start ? 1.0f : root(one_minus_exp(2 * log_a, a[i] * a[i]));
      b[i] = scale * input(in, s, i) * in[0][s][i];
    }
  }
  __device__ void backward(const Steps<T, N> (&in)[kInputs], int s, bool start, const float (&a)[N],
                           const float (&g)[N], const float (&before)[N],
                           float (&din)[kInputs][N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float x = in[0][s][i], gate = input(in, s, i), r = recurrence(in, s, i);
      const float left = one_minus_exp(2 * r * log_decay[i], a[i] * a[i]);
      const float scale = start ? 1.0f : root(left);
      const float dleft = g[i] * gate * x * rsqrtf(fmaxf(4 * left, 1e-6f));
      const float dlog_a = start ? 0.0f : a[i] * (g[i] * before[i] - 2 * a[i] * dleft);
      din[0][i] = g[i] * scale * gate;
      din[1][i] = dlog_a * log_decay[i] * r * (1 - r);
      din[2][i] = g[i] * scale * x * gate * (1 - gate);
      dparameter[0][i] += dlog_a * r * slope[i];
      dparameter[1][i] += din[1][i];
      dparameter[2][i] += din[2][i];
    }
  }
  // -8 softplus(lambda), its derivative by lambda, the biases; gradients of lambda and the biases.
  float log_decay[N], slope[N], bias[2][N], dparameter[kParameters][N];
};

// Where a thread is: its channels, and what it needs of its row.
template <class T, int N>
struct Place {
  __device__ explicit Place(const GpuLinearScanParams& params)
      : p(params.of),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        warp(static_cast<int>(threadIdx.x) / kWarp),
        column((int64_t{blockIdx.x} * kWarp + lane) * N),
        b(blockIdx.y),
        segment(blockIdx.z),
        begin(segment * params.segment_len),
        end(begin + params.segment_len < p.seq_len ? begin + params.segment_len : p.seq_len),
        present(column < p.dim) {}

  __device__ const T* column_of(const ScanRows& rows) const {
    return static_cast<const T*>(rows.data) + b * rows.batch_stride + column;
  }
  // The steps from time `first` on; zeros beyond the segment.
  __device__ void read(const ScanRows& rows, int64_t first, Steps<T, N>& to) const {
    const T* from = column_of(rows);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const bool there = present && first + s < end;
      to[s] = there ? *reinterpret_cast<const Raw<T, N>*>(from + (first + s) * rows.time_stride)
                    : Raw<T, N>{};
    }
  }
  __device__ void write(void* to, int64_t t, const float (&value)[N]) const {
    if (present && t < end)
      store<N>(static_cast<T*>(to) + (b * p.seq_len + t) * p.dim + column, value);
  }
  // Bit s: a document starts at time first + s.
  __device__ unsigned starts(int64_t first) const {
    unsigned bits = first == 0 && !p.state_in ? 1u : 0u;
    if (p.start)
#pragma unroll
      for (int s = 0; s < kSteps; ++s)
        if (first + s < end && p.start[b * p.seq_len + first + s]) bits |= 1u << s;
    return bits;
  }
  __device__ void read_state(const void* state, float (&to)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i)
      to[i] = present && state ? static_cast<const float*>(state)[b * p.dim + column + i] : 0.0f;
  }
  __device__ void write_state(void* state, const float (&from)[N]) const {
    if (present && warp == 0 && state)
#pragma unroll
      for (int i = 0; i < N; ++i) static_cast<float*>(state)[b * p.dim + column + i] = from[i];
  }
  __device__ float* across(const GpuLinearScanParams& params, int64_t of_segment) const {
    return params.across + (of_segment * p.batch + b) * 2 * p.dim + column;
  }

  const LinearScanParams& p;
  int lane, warp;
  int64_t column, b, segment, begin, end;
  bool present;
};

// What some steps do to a state: product x + offset. After a document's start the product is zero:
// what was before does not count, even where it is no number.
template <int N>
struct Effect {
  __device__ void then(const float (&a)[N], const float (&add)[N], bool start) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      offset[i] = start ? add[i] : a[i] * offset[i] + add[i];
      product[i] = start ? 0.0f : a[i] * product[i];
    }
  }
  // First this, then `next`.
  __device__ void then(const Effect& next) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      product[i] = next.product[i] == 0 ? 0.0f : next.product[i] * product[i];
    next.apply(offset);
  }
  __device__ void apply(float (&state)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i)
      state[i] = product[i] == 0 ? offset[i] : product[i] * state[i] + offset[i];
  }
  float product[N], offset[N];
};
template <int N>
__device__ Effect<N> no_effect() {
  Effect<N> e;
#pragma unroll
  for (int i = 0; i < N; ++i) e.product[i] = 1, e.offset[i] = 0;
  return e;
}

// The effects of the 8 warps of a tile. Two sets in turn: one barrier a tile.
template <int N>
struct Exchange {
  Effect<N> at[2][kWarps][kWarp];
};

// `carry` enters the tile's first warp (backward in time: its last); leaves behind the other end.
// -> what enters the own warp.
template <int N, bool kBackward, class P>
__device__ void pass_on(Exchange<N>& exchange, int turn, const P& place, const Effect<N>& own,
                        float (&carry)[N], float (&entering)[N]) {
  exchange.at[turn][place.warp][place.lane] = own;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kWarps; ++k) {
    const int warp = kBackward ? kWarps - 1 - k : k;
    if (warp == place.warp)
#pragma unroll
      for (int i = 0; i < N; ++i) entering[i] = carry[i];
    exchange.at[turn][warp][place.lane].apply(carry);
  }
}

// First pass over a segment: what it does to a state, or backward in time to a gradient.
template <class T, int N, template <class, int> class Gates, bool kBackward>
__global__ __launch_bounds__(kThreads, 2) void effect_kernel(
    const __grid_constant__ GpuLinearScanParams params) {
  using G = Gates<T, N>;
  __shared__ Exchange<N> exchange;
  const Place<T, N> place(params);
  const LinearScanParams& p = place.p;
  const G gates(p, place.column, place.present);
  const int64_t tiles = (place.end - place.begin + kGpuScanTile - 1) / kGpuScanTile;
  Effect<N> total = no_effect<N>();
  for (int64_t k = 0; k < tiles; ++k) {
    const int64_t tile = kBackward ? tiles - 1 - k : k;
    const int64_t first = place.begin + tile * kGpuScanTile + place.warp * kSteps;
    Steps<T, N> in[G::kInputs], dh;
#pragma unroll
    for (int j = 0; j < G::kInputs; ++j) place.read(p.input[j], first, in[j]);
    if (kBackward) place.read(p.dh, first, dh);
    const unsigned starts = place.starts(first);
    Effect<N> own = no_effect<N>();
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int s = kBackward ? kSteps - 1 - j : j;
      if (first + s >= place.end) continue;
      const bool start = starts >> s & 1;
      float a[N], add[N];
      if constexpr (kBackward) {
        gates.decay(in, s, start, a);
#pragma unroll
        for (int i = 0; i < N; ++i) add[i] = start ? 0.0f : a[i] * dh[s][i];
      } else {
        gates.step(in, s, start, a, add);
      }
      own.then(a, add, start);
    }
    exchange.at[k & 1][place.warp][place.lane] = own;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      total.then(exchange.at[k & 1][kBackward ? kWarps - 1 - w : w][place.lane]);
    }
  }
  if (!place.present || place.warp != 0) return;
  float* to = place.across(params, place.segment);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = total.product[i], to[p.dim + i] = total.offset[i];
}

// `carry` past the segments before this one (backward in time: after it).
template <class T, int N, bool kBackward>
__device__ void cross_segments(const GpuLinearScanParams& params, const Place<T, N>& place,
                               float (&carry)[N]) {
  const int64_t count = kBackward ? params.segments - 1 - place.segment : place.segment;
  for (int64_t k = 0; place.present && k < count; ++k) {
    const float* from = place.across(params, kBackward ? params.segments - 1 - k : k);
    Effect<N> segment;
#pragma unroll
    for (int i = 0; i < N; ++i)
      segment.product[i] = from[i], segment.offset[i] = from[place.p.dim + i];
    segment.apply(carry);
  }
}

template <class T, int N, template <class, int> class Gates>
__global__ __launch_bounds__(kThreads, 2) void forward_kernel(
    const __grid_constant__ GpuLinearScanParams params) {
  using G = Gates<T, N>;
  __shared__ Exchange<N> exchange;
  const Place<T, N> place(params);
  const LinearScanParams& p = place.p;
  const G gates(p, place.column, place.present);
  float carry[N];
  place.read_state(p.state_in, carry);
  cross_segments<T, N, false>(params, place, carry);
  int turn = 0;
  for (int64_t tile = place.begin; tile < place.end; tile += kGpuScanTile, turn ^= 1) {
    const int64_t first = tile + place.warp * kSteps;
    Steps<T, N> in[G::kInputs];
#pragma unroll
    for (int j = 0; j < G::kInputs; ++j) place.read(p.input[j], first, in[j]);
    const unsigned starts = place.starts(first);
    float a[kSteps][N], add[kSteps][N], h[N];
    Effect<N> own = no_effect<N>();
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (first + s >= place.end) continue;
      gates.step(in, s, starts >> s & 1, a[s], add[s]);
      own.then(a[s], add[s], starts >> s & 1);
    }
    pass_on<N, false>(exchange, turn, place, own, carry, h);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (first + s >= place.end) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) h[i] = starts >> s & 1 ? add[s][i] : a[s][i] * h[i] + add[s][i];
      place.write(p.h, first + s, h);
    }
  }
  if (place.end == p.seq_len) place.write_state(p.state_out, carry);
}

// g_t = dh_t + a_{t+1} g_{t+1}: what passes from token to token is a_t g_t.
template <class T, int N, template <class, int> class Gates>
__global__ __launch_bounds__(kThreads, sizeof(T) == 2 ? 2 : 1) void backward_kernel(
    const __grid_constant__ GpuLinearScanParams params) {
  using G = Gates<T, N>;
  __shared__ Exchange<N> exchange;
  const Place<T, N> place(params);
  const LinearScanParams& p = place.p;
  G gates(p, place.column, place.present);
  float carry[N];
  place.read_state(p.dstate_out, carry);
  cross_segments<T, N, true>(params, place, carry);
  // h one step earlier.
  const ScanRows h_rows{static_cast<const T*>(p.h) - p.dim, p.seq_len * p.dim, p.dim};
  const int64_t tiles = (place.end - place.begin + kGpuScanTile - 1) / kGpuScanTile;
  int turn = 0;
  for (int64_t tile = tiles - 1; tile >= 0; --tile, turn ^= 1) {
    const int64_t first = place.begin + tile * kGpuScanTile + place.warp * kSteps;
    Steps<T, N> in[G::kInputs], dh, before;
#pragma unroll
    for (int j = 0; j < G::kInputs; ++j) place.read(p.input[j], first, in[j]);
    place.read(p.dh, first, dh);
    const T* h = place.column_of(h_rows);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const bool there = place.present && first + s < place.end && first + s > 0;
      before[s] =
          there ? *reinterpret_cast<const Raw<T, N>*>(h + (first + s) * p.dim) : Raw<T, N>{};
    }
    const unsigned starts = place.starts(first);
    float a[kSteps][N], g[N];
    Effect<N> own = no_effect<N>();
#pragma unroll
    for (int s = kSteps - 1; s >= 0; --s) {
      if (first + s >= place.end) continue;
      const bool start = starts >> s & 1;
      gates.decay(in, s, start, a[s]);
      float add[N];
#pragma unroll
      for (int i = 0; i < N; ++i) add[i] = start ? 0.0f : a[s][i] * dh[s][i];
      own.then(a[s], add, start);
    }
    pass_on<N, true>(exchange, turn, place, own, carry, g);
#pragma unroll
    for (int s = kSteps - 1; s >= 0; --s) {
      if (first + s >= place.end) continue;
      const bool start = starts >> s & 1;
      float din[G::kInputs][N], h_before[N];
#pragma unroll
      for (int i = 0; i < N; ++i) g[i] += dh[s][i], h_before[i] = before[s][i];
      if (first + s == 0) place.read_state(p.state_in, h_before);
      gates.backward(in, s, start, a[s], g, h_before, din);
#pragma unroll
      for (int j = 0; j < G::kInputs; ++j) place.write(p.dinput[j], first + s, din[j]);
#pragma unroll
      for (int i = 0; i < N; ++i) g[i] = start ? 0.0f : a[s][i] * g[i];
    }
  }
  if (place.segment == 0) place.write_state(p.dstate_in, carry);
  if constexpr (G::kParameters > 0) {
    // Sums over the warps in their order; every parameter in turn through the same room.
    float* room = reinterpret_cast<float*>(&exchange);
    float* to = static_cast<float*>(p.dparameter_partial) +
                (place.b * params.segments + place.segment) * G::kParameters * p.dim;
    for (int k = 0; k < G::kParameters; ++k) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < N; ++i)
        room[(place.warp * kWarp + place.lane) * N + i] = gates.dparameter[k][i];
      __syncthreads();
      if (place.warp != 0 || !place.present) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float sum = 0;
        for (int warp = 0; warp < kWarps; ++warp) sum += room[(warp * kWarp + place.lane) * N + i];
        to[k * p.dim + place.column + i] = sum;
      }
    }
  }
}

// Whether all rows may be read in packs of N elements.
template <class T, int N>
bool whole_packs(const LinearScanParams& p, int inputs, bool backward) {
  bool whole = p.dim % N == 0;
  const auto look = [&](const void* data) {
    whole = whole && reinterpret_cast<std::uintptr_t>(data) % (sizeof(T) * N) == 0;
  };
  const auto rows = [&](const ScanRows& at) {
    look(at.data);
    whole = whole && at.batch_stride % N == 0 && at.time_stride % N == 0;
  };
  for (int k = 0; k < inputs; ++k) rows(p.input[k]);
  look(p.h);
  if (backward) {
    rows(p.dh);
    for (int k = 0; k < inputs; ++k) look(p.dinput[k]);
  }
  return whole;
}

template <class T, int N, template <class, int> class Gates, bool kBackward>
void run(const GpuLinearScanParams& params, cudaStream_t stream) {
  const LinearScanParams& p = params.of;
  const dim3 grid(static_cast<unsigned>((p.dim + kWarp * N - 1) / (kWarp * N)),
                  static_cast<unsigned>(p.batch), static_cast<unsigned>(params.segments));
  if (params.segments > 1)
    effect_kernel<T, N, Gates, kBackward><<<grid, kThreads, 0, stream>>>(params);
  if constexpr (kBackward)
    backward_kernel<T, N, Gates><<<grid, kThreads, 0, stream>>>(params);
  else
    forward_kernel<T, N, Gates><<<grid, kThreads, 0, stream>>>(params);
}

template <template <class, int> class Gates, bool kBackward>
void launch(const GpuLinearScanParams& params, void* stream) {
  const LinearScanParams& p = params.of;
  if (p.batch == 0 || p.dim == 0) return;
  with_type(p.type, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto on = static_cast<cudaStream_t>(stream);
    if (whole_packs<T, 2>(p, Gates<T, 2>::kInputs, kBackward))
      run<T, 2, Gates, kBackward>(params, on);
    else
      run<T, 1, Gates, kBackward>(params, on);
  });
}

[[maybe_unused]] const bool registered = [] {
  linear_scan_forward_cuda.launch = launch<Given, false>;
  linear_scan_backward_cuda.launch = launch<Given, true>;
  rg_lru_forward_cuda.launch = launch<RgLru, false>;
  rg_lru_backward_cuda.launch = launch<RgLru, true>;
  return true;
}();

}  // namespace
}  // namespace ceiling
