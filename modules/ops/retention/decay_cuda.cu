// The gradient of log decays on a GPU, README.md eq. 4, and the sums of dq and dk over heads that
// share q and k: both read dq and dk of every head once.
// Bound:  HBM: 8 K bytes per token and head; q and k of a group come from L2.
// Layout: a first kernel gives a block to each token and group of heads. Lanes own 16 bytes of the
//   width; teams of lanes take the group's heads in turns, and their sums are added in order. A
//   second kernel gives a block to each row and head, which adds the terms up from the end in
//   float64, kScan tokens at a time, anew in each document.
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/retention/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kTermThreads = 256, kTeam = 16, kTeams = kTermThreads / kTeam;
constexpr int kScan = 256;

__device__ __forceinline__ float team_sum(float x) {
#pragma unroll
  for (int offset = kTeam / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

template <int N>
__device__ __forceinline__ void load_wide(const float* from, float (&to)[N]) {
  constexpr int kStep = N < 4 ? N : 4;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    float part[kStep];
    load<kStep>(from + i, part);
#pragma unroll
    for (int j = 0; j < kStep; ++j) to[i + j] = part[j];
  }
}

// N elements of a lane at a time; kTeam N of a team.
template <class T, int N>
__global__ __launch_bounds__(kTermThreads) void terms_kernel(const GpuDecayGradientParams p) {
  extern __shared__ float sums[];  // [kTeams, 2, kTeam N]
  const int lane = threadIdx.x % kTeam, team = threadIdx.x / kTeam;
  const int64_t groups = p.heads / p.group, token = blockIdx.x / groups,
                first = blockIdx.x % groups * p.group;
  const int64_t b = token / p.seq_len, t = token % p.seq_len;
  // Only the first slab of columns begins the terms, the others add to them.
  for (int64_t slab = 0; slab < p.width; slab += kTeam * N) {
    const int64_t column = slab + lane * N;
    const bool present = column < p.width;
    float dq_sum[N] = {}, dk_sum[N] = {};
    for (int64_t h0 = first; h0 < first + p.group; h0 += kTeams) {
      const int64_t h = h0 + team;
      const bool has_head = h < first + p.group;
      float term = 0;
      if (has_head && present) {
        float q[N], k[N], dq[N], dk[N];
        const auto of = [&](const void* from, const GpuSweepStrides& s) {
          return static_cast<const T*>(from) + b * s.batch + t * s.time + h * s.head + column;
        };
        const int64_t at = (token * p.heads + h) * p.width + column;
        load<N>(of(p.q, p.q_strides), q), load<N>(of(p.k, p.k_strides), k);
        load_wide(p.dq + at, dq), load_wide(p.dk + at, dk);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          term += q[i] * dq[i] - k[i] * dk[i];
          dq_sum[i] += dq[i], dk_sum[i] += dk[i];
        }
      }
      term = team_sum(term);
      if (has_head && lane == 0) {
        float* to = p.terms + (b * p.heads + h) * p.seq_len + t;
        *to = slab == 0 ? term : *to + term;
      }
    }
    if (!p.dq_sum) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sums[(team * 2 * kTeam + lane) * N + i] = dq_sum[i];
      sums[((team * 2 + 1) * kTeam + lane) * N + i] = dk_sum[i];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < 2 * kTeam * N; e += kTermThreads) {
      float sum = 0;
      for (int of = 0; of < kTeams; ++of) sum += sums[of * 2 * kTeam * N + e];
      const int64_t c = slab + e % (kTeam * N);
      if (c < p.width)
        static_cast<T*>(e < kTeam * N ? p.dq_sum : p.dk_sum)[blockIdx.x * p.width + c] =
            narrow<T>(sum);
    }
    __syncthreads();
  }
}

// A run of tokens, from late to early: what they add, and whether a document starts among them.
struct Run {
  double sum;
  int starts;
};
__device__ __forceinline__ Run then(Run late, Run early) {
  return {early.starts ? early.sum : late.sum + early.sum, late.starts | early.starts};
}

__global__ __launch_bounds__(kScan) void sums_kernel(const GpuDecayGradientParams p) {
  __shared__ Run warps[kScan / kWarp];
  const int64_t b = blockIdx.x / p.heads, h = blockIdx.x % p.heads;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  double carry = p.end ? p.end[blockIdx.x] : 0.0;
  for (int64_t end = p.seq_len; end > 0; end -= kScan) {
    const int64_t t = end - 1 - threadIdx.x;
    Run run{0, 0};
    if (t >= 0) {
      run.starts = (t == 0 && p.from_zero) || (p.start && p.start[b * p.seq_len + t]);
      // No source lies before the start of a document; the sum there is rounding.
      if (!run.starts) run.sum = p.terms[blockIdx.x * p.seq_len + t];
    }
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Run late{__shfl_up_sync(0xffffffffu, run.sum, offset),
                     __shfl_up_sync(0xffffffffu, run.starts, offset)};
      if (lane >= offset) run = then(late, run);
    }
    if (lane == kWarp - 1) warps[warp] = run;
    __syncthreads();
    Run before{carry, 0};
    for (int w = 0; w < warp; ++w) before = then(before, warps[w]);
    run = then(before, run);
    if (t >= 0) p.out[(b * p.seq_len + t) * p.heads + h] = run.sum;
    Run all{carry, 0};
    for (const Run& of : warps) all = then(all, of);
    carry = all.sum;
    __syncthreads();
  }
}

template <class T, int N>
void launch_terms(const GpuDecayGradientParams& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(p.batch * p.seq_len * (p.heads / p.group));
  terms_kernel<T, N><<<blocks, kTermThreads, kTeams * 2 * kTeam * N * sizeof(float), stream>>>(p);
}

template <class T>
void launch_for(const GpuDecayGradientParams& p, cudaStream_t stream) {
  bool whole = p.width % kPack<T> == 0 && aligned16(p.q) && aligned16(p.k) && aligned16(p.dq) &&
               aligned16(p.dk);
  for (const GpuSweepStrides& s : {p.q_strides, p.k_strides})
    for (const int64_t stride : {s.batch, s.time, s.head}) whole = whole && stride % kPack<T> == 0;
  if (whole)
    launch_terms<T, kPack<T>>(p, stream);
  else
    launch_terms<T, 1>(p, stream);
}

void launch(const GpuDecayGradientParams& params, void* opaque_stream) {
  GpuDecayGradientParams p = params;
  if (p.batch == 0) return;
  if (!p.dq_sum) p.group = p.heads;  // no sums: a block may as well take all heads of a token
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  if (p.bf16)
    launch_for<bf16>(p, stream);
  else
    launch_for<float>(p, stream);
  sums_kernel<<<static_cast<unsigned>(p.batch * p.heads), kScan, 0, stream>>>(p);
}

[[maybe_unused]] const bool registered = [] {
  decay_gradient_kernel_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
