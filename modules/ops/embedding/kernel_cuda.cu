// Gradient of an embedding: rows of dy added up by token, without atomics, in a fixed order.
// Bound: HBM. Reads dy once, reads and writes the gradient's rows that occur.
// Floor: 0.017 ms for 32,768 tokens x 768 in bfloat16 at 3.0 TB/s, and 0.002 ms for every thousand
// different tokens.
// Tokens come sorted, in runs of kEmbeddingRun. A block adds up the rows of one run: a token whose
// rows all lie in the run goes to its gradient row at once. One that goes on beyond an end of the
// run leaves a sum per run, and a second kernel adds these up.
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/embedding/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kThreads = 64;
constexpr int kAhead = 8;  // rows in flight
constexpr int kWide = 4;   // columns of a thread where the width allows

// A token that goes on leaves its sum for this run in one of two places.
enum Slot { kBegunBefore, kBegunHere };
__device__ __forceinline__ float* sum_of(const GpuEmbeddingBackwardParams& params, int64_t run,
                                         Slot slot) {
  return params.partial + (run * 2 + slot) * params.of.dim;
}

// to = held + scale * sum
template <int N>
__device__ __forceinline__ void add(float* to, const float (&held)[N], float scale,
                                    const float (&sum)[N]) {
  float total[N];
#pragma unroll
  for (int c = 0; c < N; ++c) total[c] = held[c] + scale * sum[c];
  store<N>(to, total);
}

template <class T, int N>
__global__ __launch_bounds__(kThreads) void add_runs(const GpuEmbeddingBackwardParams params) {
  const EmbeddingBackwardParams& p = params.of;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * N;
  if (column >= p.dim) return;
  const int64_t run = blockIdx.x, first = run * kEmbeddingRun;
  const int64_t last = min(first + kEmbeddingRun, p.n_tokens);
  const T* dy = static_cast<const T*>(p.dy) + column;
  float* grad = static_cast<float*>(p.grad) + column;
  const float scale = static_cast<float>(p.scale);
  const int before = first > 0 ? p.tokens[first - 1] : -1;
  float sum[N] = {};
  for (int64_t at = first; at < last; at += kAhead) {
    int token[kAhead + 1];
#pragma unroll
    for (int i = 0; i <= kAhead; ++i) token[i] = at + i < p.n_tokens ? p.tokens[at + i] : -1;
    float rows[kAhead][N], held[kAhead][N];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (at + i >= last) break;
      load<N>(dy + params.order[at + i] * p.dim, rows[i]);
      if (token[i + 1] != token[i] && token[i] != before) load<N>(grad + token[i] * p.dim, held[i]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (at + i >= last) break;
#pragma unroll
      for (int c = 0; c < N; ++c) sum[c] += rows[i][c];
      const bool ends = token[i + 1] != token[i], whole = token[i] != before;
      if (!ends && at + i + 1 < last) continue;
      if (ends && whole)
        add(grad + token[i] * p.dim, held[i], scale, sum);
      else
        store<N>(sum_of(params, run, whole ? kBegunHere : kBegunBefore) + column, sum);
#pragma unroll
      for (int c = 0; c < N; ++c) sum[c] = 0;
    }
  }
}

// A block takes the token that begins in its run and goes on beyond it, if there is one.
template <int N>
__global__ __launch_bounds__(kThreads) void add_sums(const GpuEmbeddingBackwardParams params,
                                                     int64_t runs) {
  const EmbeddingBackwardParams& p = params.of;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * N;
  if (column >= p.dim) return;
  const int64_t run = blockIdx.x, first = run * kEmbeddingRun, next = first + kEmbeddingRun;
  const int token = p.tokens[next - 1];
  if (p.tokens[next] != token || (first > 0 && p.tokens[first - 1] == token)) return;
  float sum[N];
  load<N>(sum_of(params, run, kBegunHere) + column, sum);
  for (int64_t at = run + 1; at < runs && p.tokens[at * kEmbeddingRun] == token; at += kAhead) {
    float sums[kAhead][N];
    bool same[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      same[i] = at + i < runs && p.tokens[(at + i) * kEmbeddingRun] == token;
      if (same[i]) load<N>(sum_of(params, at + i, kBegunBefore) + column, sums[i]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
#pragma unroll
      for (int c = 0; c < N; ++c)
        if (same[i]) sum[c] += sums[i][c];
  }
  float* grad = static_cast<float*>(p.grad) + token * p.dim + column;
  float held[N];
  load<N>(grad, held);
  add(grad, held, static_cast<float>(p.scale), sum);
}

template <class T, int N>
void run(const GpuEmbeddingBackwardParams& params, cudaStream_t stream) {
  const EmbeddingBackwardParams& p = params.of;
  const int64_t runs = (p.n_tokens + kEmbeddingRun - 1) / kEmbeddingRun;
  const auto columns = static_cast<unsigned>((p.dim / N + kThreads - 1) / kThreads);
  add_runs<T, N><<<dim3(static_cast<unsigned>(runs), columns), kThreads, 0, stream>>>(params);
  if (runs > 1)
    add_sums<N>
        <<<dim3(static_cast<unsigned>(runs - 1), columns), kThreads, 0, stream>>>(params, runs);
}

void launch(const GpuEmbeddingBackwardParams& params, void* stream) {
  const EmbeddingBackwardParams& p = params.of;
  if (p.n_tokens == 0 || p.dim == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  with_type(p.type, [&](auto type) {
    using T = typename decltype(type)::type;
    const bool whole =
        p.dim % kWide == 0 && aligned16(p.dy) && aligned16(p.grad) && aligned16(params.partial);
    if (whole) return run<T, kWide>(params, on);
    run<T, 1>(params, on);
  });
}

[[maybe_unused]] const bool registered = [] {
  embedding_backward_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
