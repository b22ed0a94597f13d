// The two ends of ssd's way in chunks: time steps before the sweeps, and the gradients of dt and of
// the parameters after them.
// Bound:  latency; both move some ten floats per token and head.
// Layout: steps_kernel gives 8 tokens of a head to a thread, neighbours neighbouring heads;
//   close_kernel gives a chunk of kCloseWarps heads to a block, a head to each of its warps.
#include "modules/ops/ssd/cuda.h"
#include "modules/ops/ssd/step.cuh"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kC = kSsdChunk, kEach = kC / kWarp;
static_assert(kEach == 4, "a lane moves its tokens as one float4");
constexpr int kSlices = 16, kSlice = kC / kSlices, kStepThreads = kSlices * kWarp;
constexpr int kCloseThreads = 512, kCloseWarps = kCloseThreads / kWarp;

__global__ __launch_bounds__(kStepThreads) void steps_kernel(
    const __grid_constant__ SsdChunkParams c) {
  const SsdParams& p = c.of;
  const int64_t b = blockIdx.x / c.chunks, t0 = blockIdx.x % c.chunks * kC;
  const int tokens = static_cast<int>(min(int64_t{kC}, p.seq_len - t0));
  const int64_t first = b * p.seq_len + t0;
  if (c.document && blockIdx.y == 0 && threadIdx.x < kWarp) {
    const int lane = threadIdx.x;
    int own[kEach], sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int t = lane * kEach + i;
      own[i] = sum += c.start && t < tokens ? c.start[first + t] : 0;
    }
    int before = sum;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, offset);
      if (lane >= offset) before += other;
    }
    before -= sum;
    reinterpret_cast<int4*>(c.document + int64_t{blockIdx.x} * kC)[lane] =
        make_int4(before + own[0], before + own[1], before + own[2], before + own[3]);
  }
  const int slice = threadIdx.x / kWarp, from = slice * kSlice;
  const int64_t h = int64_t{blockIdx.y} * kWarp + threadIdx.x % kWarp;
  float sum = 0, decay[kSlice], step[kSlice];
  if (h < p.heads) {
    const float rate = decay_rate(p, h);
    const bf16* dt = row_of<bf16>(p.dt, p, first) + h;
#pragma unroll
    for (int i = 0; i < kSlice; ++i)
      step[i] = from + i < tokens ? wide(dt[(from + i) * p.dt.time_stride]) : 0.0f;
#pragma unroll
    for (int i = 0; i < kSlice; ++i) {
      const bool present = from + i < tokens;
      step[i] = present ? step_of(p, step[i], h).delta : 0.0f;
      const float log_decay = step[i] * rate;
      if (present) {
        const int64_t at = (first + from + i) * p.heads + h;
        c.delta[at] = step[i], static_cast<float*>(p.log_decay)[at] = log_decay;
      }
      decay[i] = sum += log_decay;
    }
  }
  if (!c.decay) return;
  __shared__ float sums[kSlices][kWarp];
  sums[slice][threadIdx.x % kWarp] = sum;
  __syncthreads();
  if (h >= p.heads) return;
  float before = 0;
  for (int of = 0; of < slice; ++of) before += sums[of][threadIdx.x % kWarp];
  const int64_t to = (int64_t{blockIdx.x} * p.heads + h) * kC + from;
#pragma unroll
  for (int i = 0; i < kSlice; i += 4) {
    *reinterpret_cast<float4*>(c.decay + to + i) =
        make_float4(kLog2E * (before + decay[i]), kLog2E * (before + decay[i + 1]),
                    kLog2E * (before + decay[i + 2]), kLog2E * (before + decay[i + 3]));
    *reinterpret_cast<float4*>(c.step + to + i) =
        make_float4(step[i], step[i + 1], step[i + 2], step[i + 3]);
  }
}

__device__ __forceinline__ void load_four(const float* from, float (&to)[kEach]) {
  load<kEach>(from + threadIdx.x % kWarp * kEach, to);
}

// README.md, eq. 1 to 3.
__global__ __launch_bounds__(kCloseThreads) void close_kernel(
    const __grid_constant__ SsdChunkParams c) {
  __shared__ bf16 ddt[kC][kCloseWarps + 2];  // rows of an odd number of banks
  const SsdParams& p = c.of;
  const int64_t b = blockIdx.x / c.chunks, chunk = blockIdx.x % c.chunks,
                first_head = int64_t{blockIdx.y} * kCloseWarps;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t h = first_head + warp;
  if (h < p.heads) {
    const int64_t of_head = int64_t{blockIdx.x} * p.heads + h;
    float of_state[kEach], of_tokens[kEach], to_tokens[kEach], to_state[kEach], step[kEach],
        skip[kEach];
    load_four(c.of_state + of_head * kC, of_state);
    load_four(c.of_tokens + of_head * kC, of_tokens);
    load_four(c.to_tokens + of_head * kC, to_tokens);
    load_four(c.to_state + of_head * kC, to_state);
    load_four(c.step + of_head * kC, step);
    load_four(c.through_skip + of_head * kC, skip);
    const int4 four = reinterpret_cast<const int4*>(c.document + int64_t{blockIdx.x} * kC)[lane];
    const float rate = decay_rate(p, h), passing = c.passing[of_head];
    const int document[kEach] = {four.x, four.y, four.z, four.w};
    int document_before = __shfl_up_sync(0xffffffffu, four.w, 1);
    if (lane == 0) document_before = 0;
    // Sums over later readers and over earlier sources.
    float late[kEach], early[kEach], own_late = 0, own_early = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      early[i] = own_early;
      own_early += step[i] * to_state[i];
    }
#pragma unroll
    for (int i = kEach - 1; i >= 0; --i)
      late[i] = own_late += of_tokens[i] - step[i] * to_tokens[i] + of_state[i];
    float up_to = own_early, from_on = own_late;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const float below = __shfl_up_sync(0xffffffffu, up_to, offset),
                  above = __shfl_down_sync(0xffffffffu, from_on, offset);
      if (lane >= offset) up_to += below;
      if (lane + offset < kWarp) from_on += above;
    }
    const float around = passing + (up_to - own_early) + (from_on - own_late);
    float of_a = 0, of_d = 0, of_bias = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t t = chunk * kC + lane * kEach + i;
      const bool starts = document[i] != (i > 0 ? document[i - 1] : document_before);
      const bool has_source = !starts && !(t == 0 && c.from_zero);
      const bool present = t < p.seq_len;
      const float of_decay = has_source && present ? around + late[i] + early[i] : 0.0f;
      const float at_dt =
          present ? (to_tokens[i] + to_state[i] + rate * of_decay) * slope_of(p, step[i]) : 0.0f;
      ddt[lane * kEach + i][warp] = narrow<bf16>(at_dt);
      of_a += rate * step[i] * of_decay, of_d += present ? skip[i] : 0.0f, of_bias += at_dt;
    }
    of_a = warp_sum(of_a), of_d = warp_sum(of_d), of_bias = warp_sum(of_bias);
    if (lane == 0) {
      float* partial = static_cast<float*>(p.partial) + int64_t{blockIdx.x} * 3 * p.heads + h;
      partial[0] = of_a, partial[p.heads] = of_d, partial[2 * p.heads] = of_bias;
    }
  }
  __syncthreads();
  // Neighbours write neighbouring heads.
  const int head = threadIdx.x % kCloseWarps;
  if (first_head + head >= p.heads) return;
  for (int at = threadIdx.x / kCloseWarps; at < kC; at += kCloseThreads / kCloseWarps) {
    const int64_t t = chunk * kC + at;
    if (t < p.seq_len)
      static_cast<bf16*>(p.ddt)[(b * p.seq_len + t) * p.heads + first_head + head] = ddt[at][head];
  }
}

void launch_steps(const SsdChunkParams& c, void* stream) {
  const dim3 grid(static_cast<unsigned>(c.of.batch * c.chunks),
                  static_cast<unsigned>((c.of.heads + kWarp - 1) / kWarp));
  if (grid.x == 0) return;
  steps_kernel<<<grid, kStepThreads, 0, static_cast<cudaStream_t>(stream)>>>(c);
}
void launch_close(const SsdChunkParams& c, void* stream) {
  const dim3 grid(static_cast<unsigned>(c.of.batch * c.chunks),
                  static_cast<unsigned>((c.of.heads + kCloseWarps - 1) / kCloseWarps));
  if (grid.x == 0) return;
  close_kernel<<<grid, kCloseThreads, 0, static_cast<cudaStream_t>(stream)>>>(c);
}

[[maybe_unused]] const bool registered = [] {
  ssd_steps_cuda.launch = launch_steps;
  ssd_close_cuda.launch = launch_close;
  return true;
}();

}  // namespace
}  // namespace ceiling
