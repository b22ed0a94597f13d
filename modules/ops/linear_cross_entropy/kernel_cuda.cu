// Softmax, loss and gradient of rows of logits, in place.
// Bound:  HBM. A row is read, and overwritten by its gradient: 4 bytes per logit in bfloat16.
// Floor:  0.55 ms for 8,192 rows x 50,304 (1.65 GB at 3.0 TB/s).
// Layout: one block per row. The first pass finds maximum and sum together, each thread over its
//   own columns; the second reads the row again, which by then is in L2 (100 KB for each of the
//   rows in flight).
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/linear_cross_entropy/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kThreads = 512;
constexpr float kLn2 = 0.69314718f;

// Of exp(x): sum is relative to 2^(high log2 e).
struct Softmax {
  float high = -INFINITY, sum = 0;
  __device__ void add(const Softmax& other) {
    const float top = fmaxf(high, other.high);
    if (top == -INFINITY) return;
    sum = sum * exp2f((high - top) * kLog2E) + other.sum * exp2f((other.high - top) * kLog2E);
    high = top;
  }
};

__device__ Softmax over_block(Softmax mine, Softmax* lanes) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    Softmax other;
    other.high = __shfl_xor_sync(0xffffffffu, mine.high, offset);
    other.sum = __shfl_xor_sync(0xffffffffu, mine.sum, offset);
    mine.add(other);
  }
  if (threadIdx.x % kWarp == 0) lanes[threadIdx.x / kWarp] = mine;
  __syncthreads();
  mine = Softmax();
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp) mine.add(lanes[warp]);
  return mine;
}

template <class T, int N>
__global__ __launch_bounds__(kThreads) void kernel(const GpuCrossEntropyParams params) {
  const CrossEntropyParams& p = params.rows_of;
  __shared__ Softmax lanes[kThreads / kWarp];
  const int64_t row = blockIdx.x;
  T* logits = static_cast<T*>(p.logits) + row * p.width;
  const int target = p.targets[row];
  const float cap = static_cast<float>(p.logit_cap);
  const auto capped = [&](float x) { return cap > 0 ? cap * tanhf(x / cap) : x; };
  float* loss = static_cast<float*>(p.loss);
  float* z = static_cast<float*>(p.z);

  if (target < 0) {
    if (threadIdx.x == 0) loss[row] = 0, z[row] = 0;
    const float zeros[N] = {};
    if (p.want_grad)
      for (int64_t at = threadIdx.x * N; at < p.width; at += kThreads * N)
        store<N>(logits + at, zeros);
    return;
  }

  Softmax mine;
  for (int64_t at = threadIdx.x * N; at < p.vocab_size; at += kThreads * N) {
    float x[N];
    load<N>(logits + at, x);
    // The maximum of the run first: one rescaling for all of it.
    float high = -INFINITY;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = at + i < p.vocab_size ? capped(x[i]) : -INFINITY;
      high = fmaxf(high, x[i]);
    }
    if (high > mine.high) mine.sum *= exp2f((mine.high - high) * kLog2E), mine.high = high;
    if (mine.high == -INFINITY) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) mine.sum += exp2f((x[i] - mine.high) * kLog2E);
  }
  const Softmax all = over_block(mine, lanes);
  const float log_sum = all.high + kLn2 * log2f(all.sum);
  // Whoever owns the target's column reads it before it is overwritten.
  if (threadIdx.x == static_cast<unsigned>(target / N % kThreads)) {
    loss[row] = log_sum - capped(wide(logits[target]));
    z[row] = log_sum;
  }
  if (!p.want_grad) return;
  const float scale = static_cast<float>(p.scale);
  const float weight = scale * (1.0f + 2.0f * static_cast<float>(p.z_loss) * log_sum);
  for (int64_t at = threadIdx.x * N; at < p.width; at += kThreads * N) {
    float x[N];
    load<N>(logits + at, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float value = capped(x[i]);
      float grad = weight * exp2f((value - log_sum) * kLog2E);
      if (at + i == target) grad -= scale;
      if (cap > 0) grad *= 1.0f - value / cap * (value / cap);
      x[i] = at + i < p.vocab_size ? grad : 0.0f;
    }
    store<N>(logits + at, x);
  }
}

void launch(const GpuCrossEntropyParams& params, void* stream) {
  if (params.rows == 0) return;
  const CrossEntropyParams& p = params.rows_of;
  const auto grid = static_cast<unsigned>(params.rows);
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (p.width % kPack<T> == 0 && aligned16(p.logits))
      kernel<T, kPack<T>><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(params);
    else
      kernel<T, 1><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(params);
  });
}

[[maybe_unused]] const bool registered = [] {
  cross_entropy_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
