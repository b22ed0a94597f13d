// Mamba-2's time steps and skip on a GPU.
// Bound:  HBM. Bytes per element of x in bfloat16: 4 before the sweep, 6 after it, 8 backward.
// Floor:  at 3.0 TB/s, 32,768 tokens x 64 heads x 64: 0.18, 0.27 and 0.36 ms.
// Layout: forward, a thread takes 16 bytes of a head; what belongs to the head alone it computes
//   again. Backward, a team of 8 lanes takes one head of every so-manieth token, neighbours
//   neighbouring heads, and keeps the parameters' gradients; the host adds up the teams.
// Limits: heads that are no multiple of 16 bytes, and rows that begin between such multiples, take
//   one element at a time.
#include <type_traits>

#include "modules/ops/ssd/cuda.h"
#include "modules/ops/ssd/step.cuh"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kThreads = 256, kTeam = 8;

// N elements of a head of a token.
struct Place {
  int64_t token, h, column;
  bool present;
  __device__ Place(const SsdParams& p, int n) {
    const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    const int64_t per_head = p.dim / n, per_token = p.heads * per_head;
    token = index / per_token;
    h = index % per_token / per_head;
    column = index % per_head * n;
    present = token < p.batch * p.seq_len;
  }
};

template <class T, int N>
__global__ __launch_bounds__(kThreads) void prepare_kernel(const SsdParams p) {
  const Place at(p, N);
  if (!at.present) return;
  const float delta = step_of(p, wide(row_of<T>(p.dt, p, at.token)[at.h]), at.h).delta;
  if (at.column == 0)
    static_cast<float*>(p.log_decay)[at.token * p.heads + at.h] = delta * decay_rate(p, at.h);
  float x[N];
  load<N>(row_of<T>(p.x, p, at.token) + at.h * p.dim + at.column, x);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] *= delta;
  store<N>(static_cast<T*>(p.v) + (at.token * p.heads + at.h) * p.dim + at.column, x);
}

template <class T, int N>
__global__ __launch_bounds__(kThreads) void skip_kernel(const SsdParams p) {
  const Place at(p, N);
  if (!at.present) return;
  const int64_t of_head = (at.token * p.heads + at.h) * p.dim + at.column;
  const float d = static_cast<const float*>(p.d)[at.h];
  float x[N], y[N];
  load<N>(row_of<T>(p.x, p, at.token) + at.h * p.dim + at.column, x);
  load<N>(static_cast<const T*>(p.o) + of_head, y);
#pragma unroll
  for (int i = 0; i < N; ++i) y[i] += d * x[i];
  store<N>(static_cast<T*>(p.y) + of_head, y);
}

__device__ __forceinline__ float team_sum(float x) {
#pragma unroll
  for (int offset = kTeam / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// dx = Delta dv + D dy,  dDelta = x . dv + A d(Delta A),  ddt = dDelta Delta';
// dA_log = sum A Delta d(Delta A),  dD = sum x . dy,  ddt_bias = sum ddt.
template <class T, int N>
__global__ __launch_bounds__(kThreads) void backward_kernel(const SsdParams p) {
  const int lane = threadIdx.x % kTeam;
  const int64_t team = int64_t{blockIdx.x} * (kThreads / kTeam) + threadIdx.x / kTeam;
  const int64_t h = team % p.heads, first = team / p.heads, tokens = p.batch * p.seq_len;
  const bool works = first < p.partials;
  const float a = works ? decay_rate(p, h) : 0.0f;
  const float d = works ? static_cast<const float*>(p.d)[h] : 0.0f;
  float of_a = 0, of_d = 0, of_bias = 0;
  // All lanes of a warp go round equally often: they exchange sums.
  for (int64_t turn = 0; turn * p.partials < tokens; ++turn) {
    const int64_t token = turn * p.partials + first;
    const bool present = works && token < tokens;
    Step step{0, 0};
    float through_v = 0, through_skip = 0, of_decay = 0;
    if (present) {
      step = step_of(p, wide(row_of<T>(p.dt, p, token)[h]), h);
      of_decay = static_cast<float>(p.d_log_decay[token * p.heads + h]);
      const int64_t of_head = (token * p.heads + h) * p.dim;
      const T *x_row = row_of<T>(p.x, p, token) + h * p.dim,
              *dy_row = row_of<T>(p.dy, p, token) + h * p.dim;
      for (int64_t column = lane * N; column < p.dim; column += kTeam * N) {
        float x[N], dv[N], dy[N];
        load<N>(x_row + column, x), load<N>(dy_row + column, dy);
        load<N>(static_cast<const T*>(p.dv) + of_head + column, dv);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          through_v += x[i] * dv[i], through_skip += x[i] * dy[i];
          dv[i] = step.delta * dv[i] + d * dy[i];
        }
        store<N>(static_cast<T*>(p.dx) + of_head + column, dv);
      }
    }
    through_v = team_sum(through_v), through_skip = team_sum(through_skip);
    if (!present) continue;
    const float at_dt = (through_v + a * of_decay) * step.slope;
    if (lane == 0) static_cast<T*>(p.ddt)[token * p.heads + h] = narrow<T>(at_dt);
    of_a += a * step.delta * of_decay, of_d += through_skip, of_bias += at_dt;
  }
  if (!works || lane != 0) return;
  float* partial = static_cast<float*>(p.partial) + first * 3 * p.heads + h;
  partial[0] = of_a, partial[p.heads] = of_d, partial[2 * p.heads] = of_bias;
}

template <class T>
bool whole(const SsdParams& p) {
  bool fits = p.dim % kPack<T> == 0;
  for (const SsdRows& rows : {p.x, p.dy})
    fits = fits && aligned16(rows.data) && rows.batch_stride % kPack<T> == 0 &&
           rows.time_stride % kPack<T> == 0;
  for (const void* pointer : {static_cast<const void*>(p.v), p.o, static_cast<const void*>(p.y),
                              p.dv, static_cast<const void*>(p.dx)})
    fits = fits && aligned16(pointer);
  return fits;
}

// Calls body(type, N) with the elements of a thread.
template <class Body>
void with_shape(const SsdParams& p, const Body& body) {
  if (p.batch == 0) return;
  with_type(p.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (whole<T>(p))
      body(type, std::integral_constant<int, kPack<T>>());
    else
      body(type, std::integral_constant<int, 1>());
  });
}

unsigned blocks_of_elements(const SsdParams& p, int64_t n) {
  const int64_t threads = p.batch * p.seq_len * p.heads * (p.dim / n);
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

void launch_prepare(const SsdParams& p, void* stream) {
  with_shape(p, [&](auto type, auto n) {
    prepare_kernel<typename decltype(type)::type, decltype(n)::value>
        <<<blocks_of_elements(p, n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
}
void launch_skip(const SsdParams& p, void* stream) {
  with_shape(p, [&](auto type, auto n) {
    skip_kernel<typename decltype(type)::type, decltype(n)::value>
        <<<blocks_of_elements(p, n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
}
void launch_backward(const SsdParams& p, void* stream) {
  with_shape(p, [&](auto type, auto n) {
    constexpr int64_t kTeams = kThreads / kTeam;
    const auto blocks = static_cast<unsigned>((p.partials * p.heads + kTeams - 1) / kTeams);
    backward_kernel<typename decltype(type)::type, decltype(n)::value>
        <<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
}

[[maybe_unused]] const bool registered = [] {
  ssd_prepare_cuda.launch = launch_prepare;
  ssd_skip_cuda.launch = launch_skip;
  ssd_backward_cuda.launch = launch_backward;
  return true;
}();

}  // namespace
}  // namespace ceiling
