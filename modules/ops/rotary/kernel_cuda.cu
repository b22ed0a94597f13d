// Rotary positions on a GPU, with the projection taken apart or, backward, put together.
// Bound: HBM. In bfloat16 forward reads and writes q and k; backward reads and writes all of dx.
// Floor: 0.067 and 0.10 ms for 32,768 tokens of 12 + 12 + 12 heads of 64 at 3.0 TB/s.
// A thread rotates N pairs; the table's rows stay in L1 and L2.
#include <algorithm>

#include "modules/ops/cuda/vector.cuh"
#include "modules/ops/rotary/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kThreads = 256;

// 2 N channels of a head that do not turn.
template <class T, int N>
__device__ __forceinline__ void keep(const T* from, T* to, float scale) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    float x[N] = {};
    if (from) load<N>(from + part * N, x);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= scale;
    store<N>(to + part * N, x);
  }
}

// N pairs from `from` to `to`: by the angle forward, by its negative backward.
template <class T, int N, bool kInterleaved, bool kBackward>
__device__ __forceinline__ void rotate(const T* from, T* to, const float* cosines,
                                       const float* sines, int half, int first, float scale) {
  float a[N], b[N], c[N], s[N];
  load<N>(cosines + first, c);
  load<N>(sines + first, s);
  if constexpr (kInterleaved) {
    float both[2 * N];
    if constexpr (N == 1)
      both[0] = from ? wide(from[2 * first]) : 0, both[1] = from ? wide(from[2 * first + 1]) : 0;
    else if (from)
      load<2 * N>(from + 2 * first, both);
    else
      for (int i = 0; i < 2 * N; ++i) both[i] = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = both[2 * i], b[i] = both[2 * i + 1];
  } else if (from) {
    load<N>(from + first, a);
    load<N>(from + half + first, b);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = b[i] = 0;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float sine = kBackward ? -s[i] : s[i], x = a[i];
    a[i] = scale * (x * c[i] - b[i] * sine);
    b[i] = scale * (b[i] * c[i] + x * sine);
  }
  if constexpr (kInterleaved) {
    float both[2 * N];
#pragma unroll
    for (int i = 0; i < N; ++i) both[2 * i] = a[i], both[2 * i + 1] = b[i];
    if constexpr (N == 1)
      to[2 * first] = narrow<T>(both[0]), to[2 * first + 1] = narrow<T>(both[1]);
    else
      store<2 * N>(to + 2 * first, both);
  } else {
    store<N>(to + first, a);
    store<N>(to + half + first, b);
  }
}

// N: pairs of a thread; kCopy: elements of a thread in what is only copied.
template <class T, int N, int kCopy, bool kInterleaved, bool kBackward>
__global__ __launch_bounds__(kThreads) void kernel(const __grid_constant__ GpuRotaryParams params,
                                                   int tokens_per_block) {
  const RotaryParams& p = params.of;
  const int half = static_cast<int>(p.turned / 2);
  const int per_head = static_cast<int>(p.head_dim / 2) / N;
  const int q_items = static_cast<int>(p.n_q_heads) * per_head;
  const int turned = q_items + static_cast<int>(p.n_k_heads) * per_head;
  int copied = 0;
  if (kBackward)
    for (int part = 0; part < p.n_rest; ++part)
      copied += static_cast<int>(p.rest_width[part] / kCopy);
  const int items = turned + copied;
  for (int index = threadIdx.x; index < items * tokens_per_block; index += kThreads) {
    const int64_t token = int64_t{blockIdx.x} * tokens_per_block + index / items;
    if (token >= params.tokens) return;
    const int64_t b = token / p.seq_len, t = token - b * p.seq_len;
    const auto gradient = [&](const RotaryGradient& grad) {
      return grad.data
                 ? static_cast<const T*>(grad.data) + b * grad.batch_stride + t * grad.time_stride
                 : nullptr;
    };
    int item = index % items;
    if (item < turned) {
      const int64_t position = p.position ? p.position[token] : t;
      const float* cosines = static_cast<const float*>(p.table) + position * p.turned;
      const bool is_q = item < q_items;
      if (!is_q) item -= q_items;
      const int head = item / per_head, first = item % per_head * N;
      const int64_t together = token * p.width + (is_q ? head : p.n_q_heads + head) * p.head_dim;
      const float scale = static_cast<float>(is_q ? p.q_scale : p.k_scale);
      const T* from;
      T* to;
      if constexpr (kBackward) {
        const RotaryGradient& grad = is_q ? p.dq : p.dk;
        from = gradient(grad);
        if (from) from += head * grad.head_stride;
        to = static_cast<T*>(p.dx) + together;
      } else {
        const int64_t heads = is_q ? p.n_q_heads : p.n_k_heads;
        from = static_cast<const T*>(p.x) + together;
        to = static_cast<T*>(is_q ? p.q : p.k) + (token * heads + head) * p.head_dim;
      }
      if (first < half)
        rotate<T, N, kInterleaved, kBackward>(from, to, cosines, cosines + half, half, first,
                                              scale);
      else
        keep<T, N>(from ? from + 2 * first : nullptr, to + 2 * first, scale);
      continue;
    }
    if constexpr (kBackward) {
      int column = (item - turned) * kCopy, part = 0;
      while (column >= p.rest_width[part]) column -= static_cast<int>(p.rest_width[part++]);
      const int64_t to = token * p.width + p.rest_first[part] + column;
      const T* from = gradient(p.drest[part]);
      Pack<T, kCopy> pack;
      if (from)
        pack = *reinterpret_cast<const Pack<T, kCopy>*>(from + column);
      else
#pragma unroll
        for (int i = 0; i < kCopy; ++i) pack.at[i] = narrow<T>(0.0f);
      *reinterpret_cast<Pack<T, kCopy>*>(static_cast<T*>(p.dx) + to) = pack;
    }
  }
}

template <class T>
bool whole_pieces(const RotaryParams& p) {
  constexpr int64_t kN = kPack<T>;
  bool whole = p.head_dim % (2 * kN) == 0 && p.turned % (2 * kN) == 0 && p.width % kN == 0;
  for (const void* pointer : {p.table, p.x, static_cast<const void*>(p.q),
                              static_cast<const void*>(p.k), static_cast<const void*>(p.dx)})
    whole = whole && aligned16(pointer);
  const auto check = [&](const RotaryGradient& grad) {
    whole = whole && aligned16(grad.data) && grad.batch_stride % kN == 0 &&
            grad.time_stride % kN == 0 && grad.head_stride % kN == 0;
  };
  check(p.dq), check(p.dk);
  for (int64_t part = 0; part < p.n_rest; ++part) {
    check(p.drest[part]);
    whole = whole && p.rest_width[part] % kN == 0 && p.rest_first[part] % kN == 0;
  }
  return whole;
}

template <class T, int N, int kCopy, bool kInterleaved, bool kBackward>
void run(const GpuRotaryParams& params, cudaStream_t stream) {
  const RotaryParams& p = params.of;
  int64_t items = (p.n_q_heads + p.n_k_heads) * p.head_dim / 2 / N;
  for (int64_t part = 0; kBackward && part < p.n_rest; ++part) items += p.rest_width[part] / kCopy;
  const int64_t tokens_per_block = std::max<int64_t>(1, 2 * kThreads / std::max<int64_t>(items, 1));
  const auto blocks =
      static_cast<unsigned>((params.tokens + tokens_per_block - 1) / tokens_per_block);
  kernel<T, N, kCopy, kInterleaved, kBackward>
      <<<blocks, kThreads, 0, stream>>>(params, static_cast<int>(tokens_per_block));
}

template <bool kBackward>
void launch(const GpuRotaryParams& params, void* stream) {
  if (params.tokens == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  with_type(params.of.type, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int kN = kPack<T>;
    if (!whole_pieces<T>(params.of)) {
      if (params.of.interleaved) return run<T, 1, 1, true, kBackward>(params, on);
      return run<T, 1, 1, false, kBackward>(params, on);
    }
    // Interleaved pairs: N of them are 2 N elements, the widest access.
    if (params.of.interleaved) return run<T, kN / 2, kN, true, kBackward>(params, on);
    run<T, kN, kN, false, kBackward>(params, on);
  });
}

[[maybe_unused]] const bool registered = [] {
  rotary_forward_cuda.launch = launch<false>;
  rotary_backward_cuda.launch = launch<true>;
  return true;
}();

}  // namespace
}  // namespace ceiling
