// A sweep token by token: the form of decoding, and the check on the chunk kernel.
// Bound:  HBM at one token: the state in and out, 8 M N bytes per head.
// Layout: one block per (b, h, 32 value columns); lane = column, warp w has the rows w, w + 8, ...
//   in registers. Sums over rows meet in shared memory, so a token costs two barriers: meant for
//   few tokens.
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/retention/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kRowWarps = 8;
constexpr int kThreads = kRowWarps * kWarp;

template <class T, int kM>
__global__ __launch_bounds__(kThreads) void recurrent_kernel(
    const __grid_constant__ GpuSweepParams p) {
  constexpr int kEach = kM / kRowWarps;
  __shared__ float queries[kM], keys[kM];
  __shared__ float sums[kRowWarps][kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t bh = blockIdx.y, b = bh / p.heads, h = bh % p.heads;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  const bool has_column = column < p.n_dim;
  const auto row_of = [&](int i) { return i * kRowWarps + warp; };
  const auto state_index = [&](int i) { return (bh * p.m_dim + row_of(i)) * p.n_dim + column; };

  float state[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    state[i] = p.state_in && has_column && row_of(i) < p.m_dim ? p.state_in[state_index(i)] : 0.0f;

  const T* query =
      static_cast<const T*>(p.query) + b * p.query_strides.batch + h * p.query_strides.head;
  const T* key = static_cast<const T*>(p.key) + b * p.key_strides.batch + h * p.key_strides.head;
  const T* value =
      static_cast<const T*>(p.value) + b * p.value_strides.batch + h * p.value_strides.head;
  for (int64_t step = 0; step < p.seq_len; ++step) {
    const int64_t t = p.backward ? p.seq_len - 1 - step : step;
    __syncthreads();  // all are done with the token before
    for (int m = threadIdx.x; m < kM; m += kThreads) {
      queries[m] = m < p.m_dim ? wide(query[t * p.query_strides.time + m]) : 0.0f;
      keys[m] = m < p.m_dim ? wide(key[t * p.key_strides.time + m]) : 0.0f;
    }
    const float v = has_column ? wide(value[t * p.value_strides.time + column]) : 0.0f;
    const float log_decay =
        p.log_decay ? p.log_decay[(b * p.seq_len + t) * p.heads + h] : p.log_decay_of_head[h];
    const float decay = p.start && p.start[b * p.seq_len + t] ? 0.0f : expf(log_decay);
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      // Forward the decay comes before the token, backward behind it.
      const float held = p.backward ? state[i] : decay * state[i];
      const float now = held + keys[row_of(i)] * v;
      sum += queries[row_of(i)] * now;
      state[i] = p.backward ? decay * now : now;
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && has_column) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < kRowWarps; ++w) total += sums[w][lane];
      const int64_t at = ((b * p.seq_len + t) * p.heads + h) * p.n_dim + column;
      if (p.wide_out)
        static_cast<float*>(p.out)[at] = total;
      else
        static_cast<T*>(p.out)[at] = narrow<T>(total);
    }
  }
  if (!p.state_out || !has_column) return;
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if (row_of(i) < p.m_dim) p.state_out[state_index(i)] = state[i];
}

template <class T, int kM>
void run(const GpuSweepParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.n_dim + kWarp - 1) / kWarp),
                  static_cast<unsigned>(p.batch * p.heads));
  recurrent_kernel<T, kM><<<grid, kThreads, 0, stream>>>(p);
}

template <class T>
void run_width(const GpuSweepParams& p, cudaStream_t stream) {
  if (p.m_dim <= 64) return run<T, 64>(p, stream);
  if (p.m_dim <= 128) return run<T, 128>(p, stream);
  if (p.m_dim <= 256) return run<T, 256>(p, stream);
  return run<T, 512>(p, stream);
}

void launch(const GpuSweepParams& p, void* stream) {
  if (p.bf16)
    run_width<bf16>(p, static_cast<cudaStream_t>(stream));
  else
    run_width<float>(p, static_cast<cudaStream_t>(stream));
}

[[maybe_unused]] const bool registered = [] {
  sweep_recurrent_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
