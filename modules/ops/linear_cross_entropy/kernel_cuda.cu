// Softmax, loss and gradient of rows of logits, in place.
// Bound:  HBM. A row is read, and overwritten by its gradient: 4 bytes per logit in bfloat16.
// Floor:  0.55 ms for 8,192 rows x 50,304 (1.65 GB at 3.0 TB/s).
// Layout: one block per row. The first pass finds maximum and sum together, each thread over its
//   own columns; the second reads the row again. In between it stays in shared memory, if two
//   blocks of an SM have room for theirs: 57,000 columns in bfloat16. From L2 half of it would have
//   to be read from HBM again (measured: 2.4 GB instead of 1.65 for the rows above).
#include <type_traits>

#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/linear_cross_entropy/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kThreads = 512;
constexpr uint32_t kKeptBytes = 112 * 1024;  // of a row in shared memory, at most
constexpr float kLn2 = 0.69314718f;

// Of exp(x): sum is relative to exp(high).
struct Softmax {
  float high = -INFINITY, sum = 0;
  __device__ void raise(float top) { sum *= exp2_of((high - top) * kLog2E), high = top; }
  __device__ void add(Softmax other) {
    const float top = fmaxf(high, other.high);
    if (top == -INFINITY) return;
    raise(top), other.raise(top);
    sum += other.sum;
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

// What is done to each logit first, and the derivative of that.
template <bool kCapped>
struct Cap {
  float cap;
  __device__ float operator()(float x) const { return kCapped ? cap * tanhf(x / cap) : x; }
  __device__ float slope(float value) const {
    return kCapped ? 1.0f - value / cap * (value / cap) : 1.0f;
  }
};

// Some 12 instructions a logit: with twice as many they would take as long as the memory. So the
// exponents are one multiply-add, and bounds and target are looked for once for N columns.
// kKept: the row is kept in shared memory; N elements are 16 bytes then.
template <class T, int N, bool kCapped, bool kKept>
__global__ __launch_bounds__(kThreads) void kernel(const GpuCrossEntropyParams params) {
  const CrossEntropyParams& p = params.rows_of;
  __shared__ Softmax lanes[kThreads / kWarp];
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t row = blockIdx.x;
  T* logits = static_cast<T*>(p.logits) + row * p.width;
  const int target = p.targets[row], vocab_size = static_cast<int>(p.vocab_size),
            width = static_cast<int>(p.width);
  const Cap<kCapped> capped{static_cast<float>(p.logit_cap)};
  float* loss = static_cast<float*>(p.loss);
  float* z = static_cast<float*>(p.z);

  if (target < 0) {
    if (threadIdx.x == 0) loss[row] = 0, z[row] = 0;
    const float zeros[N] = {};
    if (p.want_grad)
      for (int at = threadIdx.x * N; at < width; at += kThreads * N) store<N>(logits + at, zeros);
    return;
  }

  // Each thread reads only what it has copied itself.
  const T* kept = logits;
  if constexpr (kKept) {
    kept = reinterpret_cast<const T*>(memory);
    const uint32_t to = shared_address(memory);
    for (int at = threadIdx.x * N; at < width; at += kThreads * N)
      copy_async(to + at * static_cast<int>(sizeof(T)), logits + at, true);
    commit_copies();
    wait_copies<0>();
  }
  Softmax mine;
  for (int at = threadIdx.x * N; at < vocab_size; at += kThreads * N) {
    float x[N];
    load<N>(kept + at, x);
    if (kCapped)
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = capped(x[i]);
    if (at + N > vocab_size)
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = at + i < vocab_size ? x[i] : -INFINITY;
    // The maximum of the run first: one rescaling for all of it.
    float high = x[0];
#pragma unroll
    for (int i = 1; i < N; ++i) high = fmaxf(high, x[i]);
    if (high > mine.high) mine.raise(high);
    if (mine.high == -INFINITY) continue;
    const float offset = -mine.high * kLog2E;
#pragma unroll
    for (int i = 0; i < N; ++i) mine.sum += exp2_of(x[i] * kLog2E + offset);
  }
  const Softmax all = over_block(mine, lanes);
  const float log_sum = all.high + kLn2 * log2f(all.sum);
  // Whoever owns the target's column reads it before it is overwritten.
  if (threadIdx.x == static_cast<unsigned>(target / N % kThreads)) {
    loss[row] = log_sum - capped(wide(kept[target]));
    z[row] = log_sum;
  }
  if (!p.want_grad) return;
  const float scale = static_cast<float>(p.scale), offset = -log_sum * kLog2E;
  const float weight = scale * (1.0f + 2.0f * static_cast<float>(p.z_loss) * log_sum);
  for (int at = threadIdx.x * N; at < width; at += kThreads * N) {
    float x[N];
    load<N>(kept + at, x);
    float slope[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float value = capped(x[i]);
      slope[i] = capped.slope(value);
      x[i] = weight * exp2_of(value * kLog2E + offset);
    }
    if (static_cast<unsigned>(target - at) < N || at + N > vocab_size)
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (at + i == target) x[i] -= scale;
        if (at + i >= vocab_size) x[i] = 0;
      }
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= slope[i];
    store<N>(logits + at, x);
  }
}

void launch(const GpuCrossEntropyParams& params, void* stream) {
  if (params.rows == 0) return;
  const CrossEntropyParams& p = params.rows_of;
  const auto grid = static_cast<unsigned>(params.rows);
  const auto on = static_cast<cudaStream_t>(stream);
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto run = [&](auto capped) {
      constexpr bool kCapped = decltype(capped)::value;
      if (p.width % kPack<T> != 0 || !aligned16(p.logits))
        return kernel<T, 1, kCapped, false><<<grid, kThreads, 0, on>>>(params);
      const int64_t bytes = p.width * static_cast<int64_t>(sizeof(T));
      if (bytes > kKeptBytes)
        return kernel<T, kPack<T>, kCapped, false><<<grid, kThreads, 0, on>>>(params);
      constexpr auto keeping = kernel<T, kPack<T>, kCapped, true>;
      allow_shared<keeping>(kKeptBytes);
      keeping<<<grid, kThreads, static_cast<size_t>(bytes), on>>>(params);
    };
    if (p.logit_cap > 0)
      run(std::true_type());
    else
      run(std::false_type());
  });
}

[[maybe_unused]] const bool registered = [] {
  cross_entropy_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
