// Gradient of an embedding: rows of dy added up by token, without atomics, in a fixed order.
// Bound: HBM. Reads dy once, reads and writes the gradient's rows that occur.
// Floor: 0.03 ms for 32,768 tokens x 768 in bfloat16 at 3.0 TB/s, and 8 bytes per gradient element.
// Tokens come sorted. A block takes kEmbeddingRun of them: tokens that begin and end within it go
// to their gradient row at once; its first and its last token may go on in the blocks beside it, so
// their sums are kept aside and a second kernel adds these up along the blocks.
#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/embedding/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kThreads = 128;
constexpr int kAhead = 8;  // rows in flight

template <class T>
__global__ __launch_bounds__(kThreads) void add_runs(const GpuEmbeddingBackwardParams params) {
  const EmbeddingBackwardParams& p = params.of;
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= p.dim) return;
  const int64_t first = int64_t{blockIdx.x} * kEmbeddingRun;
  const int64_t last = min(first + kEmbeddingRun, p.n_tokens);
  const T* dy = static_cast<const T*>(p.dy) + column;
  float* grad = static_cast<float*>(p.grad) + column;
  float* aside = params.partial + int64_t{blockIdx.x} * 2 * p.dim + column;
  const float scale = static_cast<float>(p.scale);
  float sum = 0;
  bool is_first = true;  // the token under way is the block's first
  for (int64_t at = first; at < last; at += kAhead) {
    float rows[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      rows[i] = at + i < last ? wide(dy[params.order[at + i] * p.dim]) : 0.0f;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (at + i >= last) break;
      sum += rows[i];
      const int token = p.tokens[at + i];
      const bool ends = at + i + 1 == last || p.tokens[at + i + 1] != token;
      if (!ends) continue;
      if (is_first)
        aside[0] = sum;
      else if (at + i + 1 == last)
        aside[p.dim] = sum;
      else
        grad[token * p.dim] += scale * sum;
      is_first = false;
      sum = 0;
    }
  }
}

// One thread per column walks over the blocks' first and last tokens.
__global__ __launch_bounds__(kThreads) void add_ends(const GpuEmbeddingBackwardParams params,
                                                     int64_t runs) {
  const EmbeddingBackwardParams& p = params.of;
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= p.dim) return;
  float* grad = static_cast<float*>(p.grad) + column;
  const float scale = static_cast<float>(p.scale);
  float sum = 0;
  int token = -1;
  const auto take = [&](int next, float value) {
    if (next != token) {
      if (token >= 0) grad[token * p.dim] += scale * sum;
      token = next, sum = 0;
    }
    sum += value;
  };
  constexpr int kRunsAhead = 4;
  for (int64_t at = 0; at < runs; at += kRunsAhead) {
    float values[kRunsAhead][2];
    int tokens[kRunsAhead][2];
#pragma unroll
    for (int i = 0; i < kRunsAhead; ++i) {
      const int64_t run = min(at + i, runs - 1), end = min((run + 1) * kEmbeddingRun, p.n_tokens);
      tokens[i][0] = p.tokens[run * kEmbeddingRun], tokens[i][1] = p.tokens[end - 1];
      values[i][0] = params.partial[run * 2 * p.dim + column];
      values[i][1] =
          tokens[i][1] != tokens[i][0] ? params.partial[(run * 2 + 1) * p.dim + column] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kRunsAhead; ++i) {
      if (at + i >= runs) break;
      take(tokens[i][0], values[i][0]);
      if (tokens[i][1] != tokens[i][0]) take(tokens[i][1], values[i][1]);
    }
  }
  take(-2, 0.0f);
}

void launch(const GpuEmbeddingBackwardParams& params, void* stream) {
  const EmbeddingBackwardParams& p = params.of;
  if (p.n_tokens == 0) return;
  const int64_t runs = (p.n_tokens + kEmbeddingRun - 1) / kEmbeddingRun;
  const auto columns = static_cast<unsigned>((p.dim + kThreads - 1) / kThreads);
  const auto on = static_cast<cudaStream_t>(stream);
  with_type(p.type, [&](auto type) {
    using T = typename decltype(type)::type;
    add_runs<T><<<dim3(static_cast<unsigned>(runs), columns), kThreads, 0, on>>>(params);
  });
  add_ends<<<columns, kThreads, 0, on>>>(params, runs);
}

[[maybe_unused]] const bool registered = [] {
  embedding_backward_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
