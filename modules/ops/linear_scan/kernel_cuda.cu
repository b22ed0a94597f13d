// Diagonal recurrences on a GPU. Bound: HBM. rg_lru in bfloat16 moves 8 bytes per element forward
//   and 16 backward (h is read again: to find it anew would save 2 bytes and cost a forward scan).
// Floor:  0.18 + 0.36 ms for 32,768 tokens x 2,048 at 3.0 TB/s.
// Layout: a block owns 32 packs of N channels of one row and walks through time in tiles of 64
//   tokens: 8 warps of 8 tokens each. A warp's loads are 128-byte lines. Each thread runs its 8
//   steps from zero; product of decays and end state of all 8 warps meet in shared memory, from
//   which each thread finds the state before its steps; then it runs them again, from registers.
//   While a tile is computed the next is on its way to shared memory: 24 KB a block forward, 40 KB
//   backward, always in flight.
// Limits: where rows times channels give fewer than two blocks an SM, time is cut into segments; a
//   first pass finds what each does to a state, at the price of reading the inputs twice. Odd
//   widths or addresses take one channel a thread.
#include "modules/ops/cuda/copies.cuh"
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/linear_scan/cuda.h"
#include "modules/ops/linear_scan/gates.cuh"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
static_assert(kSteps * kWarps == kGpuScanTile, "the host cuts time into whole tiles");

// Two bytes are too few for an asynchronous copy.
template <class T, int N>
__device__ __forceinline__ void copy_soon(Raw<T, N>* to, const T* from) {
  constexpr int kBytes = sizeof(Raw<T, N>);
  if constexpr (kBytes >= 4)
    copy_async<kBytes>(shared_address(to), from);
  else
    *to = *reinterpret_cast<const Raw<T, N>*>(from);
}

// Room in shared memory for kRows rows of two tiles in turn. A thread finds only what it has asked
// for itself, so that its own wait is all it needs.
template <class T, int N, int kRows>
struct Tiles {
  static constexpr uint32_t kBytes = 2 * kRows * kSteps * kThreads * sizeof(Raw<T, N>);

  __device__ Raw<T, N>* at(int turn, int row) const {
    return reinterpret_cast<Raw<T, N>*>(room) + (turn * kRows + row) * kSteps * kThreads +
           threadIdx.x;
  }
  __device__ void take(int turn, int row, Steps<T, N>& to) const {
    const Raw<T, N>* from = at(turn, row);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) to[s] = from[s * kThreads];
  }
  unsigned char* room;
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

  // Asks for the steps from time `first` on, each `earlier` tokens before its own; zeros outside
  // the segment and before token 0.
  __device__ void ask(const ScanRows& rows, int64_t first, Raw<T, N>* to, int earlier = 0) const {
    const T* from = static_cast<const T*>(rows.data) + b * rows.batch_stride + column;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int64_t t = first + s;
      if (present && t >= begin && t >= earlier && t < end)
        copy_soon(to + s * kThreads, from + (t - earlier) * rows.time_stride);
      else
        to[s * kThreads] = Raw<T, N>{};
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
  __device__ int64_t tiles() const { return (end - begin + kGpuScanTile - 1) / kGpuScanTile; }
  // The time of the thread's first step in a tile; tiles before and after the segment have none.
  __device__ int64_t first_of(int64_t tile) const {
    return begin + tile * kGpuScanTile + warp * kSteps;
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

// Rows that the first pass reads: backward in time the decay's input and dh.
template <class G, bool kBackward>
constexpr int kEffectRows = kBackward ? 2 : G::kInputs;

// First pass over a segment: what it does to a state, or backward in time to a gradient.
template <class T, int N, template <class, int> class Gates, bool kBackward>
__global__ __launch_bounds__(kThreads, 2) void effect_kernel(
    const __grid_constant__ GpuLinearScanParams params) {
  using G = Gates<T, N>;
  constexpr int kInputs = kBackward ? 1 : G::kInputs, kFirst = kBackward ? G::kOfDecay : 0;
  __shared__ Exchange<N> exchange;
  extern __shared__ __align__(16) unsigned char memory[];
  const Tiles<T, N, kEffectRows<G, kBackward>> tiles{memory};
  const Place<T, N> place(params);
  const LinearScanParams& p = place.p;
  const G gates(p, place.column, place.present);
  const int64_t count = place.tiles();
  const auto first_of = [&](int64_t k) { return place.first_of(kBackward ? count - 1 - k : k); };
  const auto ask = [&](int64_t k) {
    const int turn = static_cast<int>(k & 1);
#pragma unroll
    for (int j = 0; j < kInputs; ++j)
      place.ask(p.input[kFirst + j], first_of(k), tiles.at(turn, j));
    if (kBackward) place.ask(p.dh, first_of(k), tiles.at(turn, kInputs));
    commit_copies();
  };
  Effect<N> total = no_effect<N>();
  ask(0);
  for (int64_t k = 0; k < count; ++k) {
    ask(k + 1);
    const int64_t first = first_of(k);
    const int turn = static_cast<int>(k & 1);
    const unsigned starts = place.starts(first);
    wait_copies<1>();
    Steps<T, N> in[G::kInputs], dh;
#pragma unroll
    for (int j = 0; j < kInputs; ++j) tiles.take(turn, j, in[kFirst + j]);
    if (kBackward) tiles.take(turn, kInputs, dh);
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
    exchange.at[turn][place.warp][place.lane] = own;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      total.then(exchange.at[turn][kBackward ? kWarps - 1 - w : w][place.lane]);
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
  extern __shared__ __align__(16) unsigned char memory[];
  const Tiles<T, N, G::kInputs> tiles{memory};
  const Place<T, N> place(params);
  const LinearScanParams& p = place.p;
  const auto ask = [&](int64_t tile, int turn) {
#pragma unroll
    for (int j = 0; j < G::kInputs; ++j)
      place.ask(p.input[j], place.first_of(tile), tiles.at(turn, j));
    commit_copies();
  };
  ask(0, 0);
  const G gates(p, place.column, place.present);
  float carry[N];
  place.read_state(p.state_in, carry);
  cross_segments<T, N, false>(params, place, carry);
  const int64_t count = place.tiles();
  int turn = 0;
  for (int64_t tile = 0; tile < count; ++tile, turn ^= 1) {
    ask(tile + 1, turn ^ 1);
    const int64_t first = place.first_of(tile);
    const unsigned starts = place.starts(first);
    wait_copies<1>();
    Steps<T, N> in[G::kInputs];
#pragma unroll
    for (int j = 0; j < G::kInputs; ++j) tiles.take(turn, j, in[j]);
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

// Rows that the backward kernel reads: the inputs, dh, and h one token earlier.
template <class G>
constexpr int kBackwardRows = G::kInputs + 2;

// g_t = dh_t + a_{t+1} g_{t+1}: what passes from token to token is a_t g_t.
template <class T, int N, template <class, int> class Gates>
__global__ __launch_bounds__(kThreads, sizeof(T) == 2 ? 2 : 1) void backward_kernel(
    const __grid_constant__ GpuLinearScanParams params) {
  using G = Gates<T, N>;
  constexpr int kDh = G::kInputs, kBefore = G::kInputs + 1;
  __shared__ Exchange<N> exchange;
  extern __shared__ __align__(16) unsigned char memory[];
  const Tiles<T, N, kBackwardRows<G>> tiles{memory};
  const Place<T, N> place(params);
  const LinearScanParams& p = place.p;
  const ScanRows h{p.h, p.seq_len * p.dim, p.dim};
  const auto ask = [&](int64_t tile, int turn) {
    const int64_t first = place.first_of(tile);
#pragma unroll
    for (int j = 0; j < G::kInputs; ++j) place.ask(p.input[j], first, tiles.at(turn, j));
    place.ask(p.dh, first, tiles.at(turn, kDh));
    place.ask(h, first, tiles.at(turn, kBefore), /*earlier=*/1);
    commit_copies();
  };
  const int64_t count = place.tiles();
  ask(count - 1, 0);
  G gates(p, place.column, place.present);
  float carry[N];
  place.read_state(p.dstate_out, carry);
  cross_segments<T, N, true>(params, place, carry);
  int turn = 0;
  for (int64_t tile = count - 1; tile >= 0; --tile, turn ^= 1) {
    ask(tile - 1, turn ^ 1);
    const int64_t first = place.first_of(tile);
    const unsigned starts = place.starts(first);
    wait_copies<1>();
    Steps<T, N> in[G::kInputs], dh, before;
    tiles.take(turn, G::kOfDecay, in[G::kOfDecay]);
    tiles.take(turn, kDh, dh);
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
    for (int j = 0; j < G::kInputs; ++j)
      if (j != G::kOfDecay) tiles.take(turn, j, in[j]);
    tiles.take(turn, kBefore, before);
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

template <auto kKernel, uint32_t kBytes>
void start(const GpuLinearScanParams& params, const dim3& grid, cudaStream_t stream) {
  allow_shared<kKernel>(kBytes);
  kKernel<<<grid, kThreads, kBytes, stream>>>(params);
}

template <class T, int N, template <class, int> class Gates, bool kBackward>
void run(const GpuLinearScanParams& params, cudaStream_t stream) {
  const LinearScanParams& p = params.of;
  const dim3 grid(static_cast<unsigned>((p.dim + kWarp * N - 1) / (kWarp * N)),
                  static_cast<unsigned>(p.batch), static_cast<unsigned>(params.segments));
  using G = Gates<T, N>;
  if (params.segments > 1)
    start<effect_kernel<T, N, Gates, kBackward>, Tiles<T, N, kEffectRows<G, kBackward>>::kBytes>(
        params, grid, stream);
  if constexpr (kBackward)
    start<backward_kernel<T, N, Gates>, Tiles<T, N, kBackwardRows<G>>::kBytes>(params, grid,
                                                                               stream);
  else
    start<forward_kernel<T, N, Gates>, Tiles<T, N, G::kInputs>::kBytes>(params, grid, stream);
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
