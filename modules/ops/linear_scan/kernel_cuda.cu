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

// 1 - a^2 for a = 2^v, v <= 0, without loss where v is small: there the series of 1 - e^u in
// u = 2 v ln 2 > -1/8, whose next term is below 1e-7 of the sum.
__device__ __forceinline__ float one_minus_square(float v, float a) {
  constexpr float kU = 1.3862944f;  // 2 ln 2
  float p = kU * kU * kU * kU * kU / 120;
  p = p * v + kU * kU * kU * kU / 24;
  p = p * v + kU * kU * kU / 6;
  p = p * v + kU * kU / 2;
  p = p * v + kU;
  return v > -0.125f / kU ? -v * p : 1.0f - a * a;
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
// h, with the state before it, means for their inputs. `kept` of it a backward pass keeps from
// where it finds the decays to where it uses them.

// linear_scan: decay and add are given.
template <class T, int N>
struct Given {
  static constexpr int kInputs = 2, kParameters = 0;
  __device__ Given(const LinearScanParams&, int64_t, bool) {}
  __device__ void step(const Steps<T, N> (&in)[kInputs], int s, bool, float (&a)[N],
                       float (&b)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = in[0][s][i], b[i] = in[1][s][i];
  }
  __device__ void keep(const Steps<T, N> (&)[kInputs], int, float (&)[N]) const {}
  __device__ void decay(const Steps<T, N> (&in)[kInputs], int s, const float (&)[N],
                        float (&a)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = in[0][s][i];
  }
  __device__ void backward(const Steps<T, N> (&)[kInputs], int, bool start, const float (&)[N],
                           const float (&)[N], const float (&g)[N], const float (&before)[N],
                           float (&din)[kInputs][N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      din[0][i] = start ? 0.0f : g[i] * before[i];
      din[1][i] = g[i];
    }
  }
  __device__ float dparameter(int, int) const { return 0; }
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
#pragma unroll
      for (int k = 0; k < 2; ++k) shift[k][i] = -kLog2E * at(k + 1);
#pragma unroll
      for (int k = 0; k < kParameters; ++k) sum[k][i] = 0;
    }
  }
  // sigmoid(input + bias): of the recurrence and of the input.
  __device__ float gate(const Steps<T, N> (&in)[kInputs], int k, int s, int i) const {
    return inverse(1 + exp2_of(in[k + 1][s][i] * -kLog2E + shift[k][i]));
  }
  __device__ float log2_decay(float r, int i) const { return r * (log_decay[i] * kLog2E); }
  __device__ void step(const Steps<T, N> (&in)[kInputs], int s, bool start, float (&a)[N],
                       float (&b)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float v = log2_decay(gate(in, 0, s, i), i);
      a[i] = exp2_of(v);
      const float q = fmaxf(one_minus_square(v, a[i]), kLeast);
      const float scale = start ? 1.0f : q * inverse_root(q);
      b[i] = scale * gate(in, 1, s, i) * in[0][s][i];
    }
  }
  __device__ void keep(const Steps<T, N> (&in)[kInputs], int s, float (&kept)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) kept[i] = gate(in, 0, s, i);
  }
  __device__ void decay(const Steps<T, N> (&)[kInputs], int, const float (&kept)[N],
                        float (&a)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = exp2_of(log2_decay(kept[i], i));
  }
  // README's Eq. 4, with sqrt(q) as q / sqrt(q) and 2 / sqrt(max(4 q, 1e-6)) as
  // min(1 / sqrt(q), 2000).
  __device__ void backward(const Steps<T, N> (&in)[kInputs], int s, bool start,
                           const float (&kept)[N], const float (&a)[N], const float (&g)[N],
                           const float (&before)[N], float (&din)[kInputs][N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float r = kept[i], x = in[0][s][i], open = gate(in, 1, s, i);
      const float q = fmaxf(one_minus_square(log2_decay(r, i), a[i]), kLeast);
      const float inverse_scale = inverse_root(q);
      const float gated = g[i] * (open * x), scaled = g[i] * (start ? 1.0f : q * inverse_scale);
      const float da = g[i] * before[i] - a[i] * (gated * fminf(inverse_scale, 2000.0f));
      const float dlog_a_r = start ? 0.0f : a[i] * da * r, dopen = scaled * (open * x);
      din[0][i] = scaled * open;
      din[1][i] = dlog_a_r * (log_decay[i] - log_decay[i] * r);
      din[2][i] = dopen - dopen * open;
      sum[0][i] += dlog_a_r;
      sum[1][i] += din[1][i];
      sum[2][i] += din[2][i];
    }
  }
  // The sum of the gradients of lambda (k = 0) or of a bias.
  __device__ float dparameter(int k, int i) const {
    return k == 0 ? sum[0][i] * slope[i] : sum[k][i];
  }

 private:
  static constexpr float kLeast = 1e-30f;  // of 1 - a^2: 0 / sqrt(0) would be no number
  // -8 softplus(lambda), its derivative by lambda, -log2(e) of the biases.
  float log_decay[N], slope[N], shift[2][N], sum[kParameters][N];
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

  // The first of this thread's steps in the tile.
  __device__ int64_t first_of(int64_t tile) const { return tile + warp * kSteps; }
  // This thread's steps of a tile, or zeros: beyond the segment, and before time `least`.
  __device__ void read(const ScanRows& rows, int64_t tile, Steps<T, N>& to,
                       int64_t least = 0) const {
    const int64_t first = first_of(tile);
    // A thread without channels of its own reads others': nothing comes of it.
    const T* from = static_cast<const T*>(rows.data) + b * rows.batch_stride +
                    (present ? column : 0) + first * rows.time_stride;
    if (tile >= least && tile + kGpuScanTile <= end) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s, from += rows.time_stride)
        to[s] = *reinterpret_cast<const Raw<T, N>*>(from);
      return;
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s, from += rows.time_stride) {
      const bool there = first + s >= least && first + s < end;
      to[s] = there ? *reinterpret_cast<const Raw<T, N>*>(from) : Raw<T, N>{};
    }
  }
  template <int kInputs>
  __device__ void read_inputs(int64_t tile, Steps<T, N> (&to)[kInputs]) const {
#pragma unroll
    for (int k = 0; k < kInputs; ++k) read(p.input[k], tile, to[k]);
  }
  __device__ T* place_in(void* to, int64_t t) const {
    return static_cast<T*>(to) + (b * p.seq_len + t) * p.dim + column;
  }
  // Bit t: a document starts at the tile's token t. Equal in all threads of the block.
  __device__ uint64_t starts(int64_t tile) const {
    static_assert(kGpuScanTile == 2 * kWarp, "two tokens a lane");
    uint64_t bits = tile == 0 && !p.state_in ? 1 : 0;
    if (!p.start) return bits;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = tile + half * kWarp + lane;
      const unsigned some = __ballot_sync(0xffffffffu, t < end && p.start[b * p.seq_len + t]);
      bits |= uint64_t{some} << (half * kWarp);
    }
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

// A tile as a block sees it. Nearly all are plain: no document starts in them, every token is there
// and has one before it. Then half of the instructions can be left out, and these kernels spend as
// long on instructions as on memory.
template <bool kPlain_>
struct Tile {
  static constexpr bool kPlain = kPlain_;
  template <class P>
  __device__ Tile(const P& place, int64_t tile_in, uint64_t starts_in)
      : tile(tile_in),
        first(place.first_of(tile)),
        left(static_cast<int>(place.end - first < kSteps ? place.end - first : kSteps)),
        starts(static_cast<unsigned>(starts_in >> (place.warp * kSteps))) {}
  __device__ bool has(int s) const { return kPlain || s < left; }
  __device__ bool starts_at(int s) const { return !kPlain && (starts >> s & 1); }

  int64_t tile, first;
  int left;
  unsigned starts;
};
template <class P, class Body>
__device__ __forceinline__ void with_tile(const P& place, int64_t tile, uint64_t starts,
                                          const Body& body) {
  if (starts == 0 && tile > 0 && tile + kGpuScanTile <= place.end)
    body(Tile<true>(place, tile, starts));
  else
    body(Tile<false>(place, tile, starts));
}

// What some steps do to a state: product x + offset. After a document's start the product is zero:
// what was before does not count, even where it is no number. Among plain tiles alone it does.
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
  template <bool kPlain>
  __device__ void then(const Effect& next) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      product[i] = !kPlain && next.product[i] == 0 ? 0.0f : next.product[i] * product[i];
    next.template apply<kPlain>(offset);
  }
  template <bool kPlain>
  __device__ void apply(float (&state)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i)
      state[i] = !kPlain && product[i] == 0 ? offset[i] : product[i] * state[i] + offset[i];
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
template <bool kPlain, bool kBackward, int N, class P>
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
    exchange.at[turn][warp][place.lane].template apply<kPlain>(carry);
  }
}

// What the steps of this thread do backward in time to a gradient; `kept` by the gates.
template <class G, class T, int N, class Tile>
__device__ Effect<N> effect_backward(const G& gates, const Tile& tile,
                                     const Steps<T, N> (&in)[G::kInputs], const Steps<T, N>& dh,
                                     float (&kept)[kSteps][N]) {
  Effect<N> own = no_effect<N>();
#pragma unroll
  for (int s = kSteps - 1; s >= 0; --s) {
    if (!tile.has(s)) continue;
    const bool start = tile.starts_at(s);
    gates.keep(in, s, kept[s]);
    float a[N], add[N];
    gates.decay(in, s, kept[s], a);
#pragma unroll
    for (int i = 0; i < N; ++i) add[i] = start ? 0.0f : a[i] * dh[s][i];
    own.then(a, add, start);
  }
  return own;
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
    const int64_t at = place.begin + (kBackward ? tiles - 1 - k : k) * kGpuScanTile;
    Steps<T, N> in[G::kInputs], dh;
    place.read_inputs(at, in);
    if (kBackward) place.read(p.dh, at, dh);
    with_tile(place, at, place.starts(at), [&](const auto& tile) {
      Effect<N> own = no_effect<N>();
      if constexpr (kBackward) {
        float kept[kSteps][N];
        own = effect_backward<G, T, N>(gates, tile, in, dh, kept);
      } else {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          if (!tile.has(s)) continue;
          float a[N], add[N];
          gates.step(in, s, tile.starts_at(s), a, add);
          own.then(a, add, tile.starts_at(s));
        }
      }
      exchange.at[k & 1][place.warp][place.lane] = own;
    });
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      total.template then<false>(exchange.at[k & 1][kBackward ? kWarps - 1 - w : w][place.lane]);
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
    segment.template apply<false>(carry);
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
  Steps<T, N> in[G::kInputs];
  place.read_inputs(place.begin, in);
  uint64_t starts = place.starts(place.begin);
  int turn = 0;
  for (int64_t at = place.begin; at < place.end; at += kGpuScanTile, turn ^= 1) {
    uint64_t next_starts = 0;
    with_tile(place, at, starts, [&](const auto& tile) {
      constexpr bool kPlain = std::remove_reference_t<decltype(tile)>::kPlain;
      float a[kSteps][N], add[kSteps][N], h[N];
      Effect<N> own = no_effect<N>();
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        if (!tile.has(s)) continue;
        gates.step(in, s, tile.starts_at(s), a[s], add[s]);
        own.then(a[s], add[s], tile.starts_at(s));
      }
      // On their way while this tile is finished.
      if (at + kGpuScanTile < place.end) {
        place.read_inputs(at + kGpuScanTile, in);
        next_starts = place.starts(at + kGpuScanTile);
      }
      pass_on<kPlain, false>(exchange, turn, place, own, carry, h);
      T* to = place.place_in(p.h, tile.first);
#pragma unroll
      for (int s = 0; s < kSteps; ++s, to += p.dim) {
        if (!tile.has(s)) continue;
#pragma unroll
        for (int i = 0; i < N; ++i)
          h[i] = tile.starts_at(s) ? add[s][i] : a[s][i] * h[i] + add[s][i];
        if (place.present) store<N>(to, h);
      }
    });
    starts = next_starts;
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
  for (int64_t k = tiles - 1; k >= 0; --k, turn ^= 1) {
    const int64_t at = place.begin + k * kGpuScanTile;
    Steps<T, N> in[G::kInputs], dh, before;
    place.read_inputs(at, in);
    place.read(p.dh, at, dh);
    place.read(h_rows, at, before, 1);
    with_tile(place, at, place.starts(at), [&](const auto& tile) {
      constexpr bool kPlain = std::remove_reference_t<decltype(tile)>::kPlain;
      float kept[kSteps][N], g[N];
      const Effect<N> own = effect_backward<G, T, N>(gates, tile, in, dh, kept);
      pass_on<kPlain, true>(exchange, turn, place, own, carry, g);
      T* to[G::kInputs];
#pragma unroll
      for (int j = 0; j < G::kInputs; ++j)
        to[j] = place.place_in(p.dinput[j], tile.first + kSteps - 1);
#pragma unroll
      for (int s = kSteps - 1; s >= 0; --s) {
        if (tile.has(s)) {
          const bool start = tile.starts_at(s);
          float a[N], din[G::kInputs][N], h_before[N];
          gates.decay(in, s, kept[s], a);
#pragma unroll
          for (int i = 0; i < N; ++i) g[i] += dh[s][i], h_before[i] = before[s][i];
          if (!kPlain && tile.first + s == 0) place.read_state(p.state_in, h_before);
          gates.backward(in, s, start, kept[s], a, g, h_before, din);
#pragma unroll
          for (int j = 0; j < G::kInputs; ++j)
            if (place.present) store<N>(to[j], din[j]);
#pragma unroll
          for (int i = 0; i < N; ++i) g[i] = start ? 0.0f : a[i] * g[i];
        }
#pragma unroll
        for (int j = 0; j < G::kInputs; ++j) to[j] -= p.dim;
      }
    });
  }
  if (place.segment == 0) place.write_state(p.dstate_in, carry);
  if constexpr (G::kParameters > 0) {
    // Sums over the warps in their order; every parameter in turn through the same room.
    float* room = reinterpret_cast<float*>(&exchange);
    float* to = static_cast<float*>(p.dparameter_partial) +
                (place.b * params.segments + place.segment) * G::kParameters * p.dim;
#pragma unroll
    for (int k = 0; k < G::kParameters; ++k) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < N; ++i)
        room[(place.warp * kWarp + place.lane) * N + i] = gates.dparameter(k, i);
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
