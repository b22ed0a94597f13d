// RMSNorm of x silu(gate) on a GPU.
// Bound:  HBM. Bytes per element in bfloat16: 6 forward, 10 backward.
// Floor:  at 3.0 TB/s, 32,768 rows x 1,536: 0.10 ms and 0.17 ms; x 4,096: 0.27 ms and 0.45 ms.
// Layout: a group of channels of a row stays in the registers of a warp or of several between the
//   sum over it and its use; blockIdx.y is the group. A block of the backward pass takes every
//   so-manieth row and keeps the weight gradient of its rows in registers; a second kernel adds up
//   the blocks.
// Limits: groups that are no multiple of 16 bytes, or beyond 2,048 times that, and rows that begin
//   between such multiples take a plain way: one element at a time, rows read twice.
#include <algorithm>

#include "modules/ops/cuda/row_groups.cuh"
#include "modules/ops/gated_rms_norm/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

// Blocks of the backward pass on an SM at a time: what the registers allow.
template <class Group>
constexpr int kResident = Group::kPacks == 1   ? 4
                          : Group::kPacks == 2 ? 2
                                               : 1;

__device__ __forceinline__ Activated silu(float x) { return activate<Activation::kSilu>(x); }

template <class Group>
__global__ __launch_bounds__(kRowThreads) void forward_kernel(const GatedRmsNormParams p) {
  using T = typename Group::Type;
  using Row = typename Group::Row;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  __shared__ float lanes[2][kRowWarps];
  const int dim = static_cast<int>(p.dim);
  const int64_t width = p.groups * p.dim, begin = blockIdx.y * p.dim;
  Row weight = Group::read(static_cast<const T*>(p.weight) + begin, dim, true);
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * Group::kRows; first < p.rows;
       first += int64_t{gridDim.x} * Group::kRows) {
    const int64_t row = first + Group::group(), at = row * width + begin;
    const bool present = row < p.rows;
    Row x = Group::read(static_cast<const T*>(p.x) + at, dim, present);
    Row gate =
        Group::read(static_cast<const T*>(p.gate) + row * p.gate_stride + begin, dim, present);
    float square = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float s = x.at(k, i) * silu(gate.at(k, i)).value;
        square += s * s;
      }
    x.stay_packed(), gate.stay_packed();
    square = Group::sum(square, lanes[turn ^= 1]);
    if (!present) continue;
    weight.stay_packed();
    const float rstd = rsqrtf(square / static_cast<float>(dim) + static_cast<float>(p.eps));
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Group::column(k) >= dim) continue;
      float y[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        y[i] = x.at(k, i) * silu(gate.at(k, i)).value * rstd * weight.at(k, i);
      store<kWidth>(static_cast<T*>(p.y) + at + Group::column(k), y);
    }
  }
}

// With a = silu(gate), s = x a, n = s rstd, h = dy w:  ds = rstd (h - n mean(h n)),  dx = ds a,
// dgate = ds x a',  dw = sum dy n.
template <class Group>
__global__ __launch_bounds__(kRowThreads,
                             kResident<Group>) void backward_kernel(const GatedRmsNormParams p) {
  using T = typename Group::Type;
  using Row = typename Group::Row;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  __shared__ float lanes[2][2][kRowWarps];
  const int dim = static_cast<int>(p.dim);
  const int64_t width = p.groups * p.dim, begin = blockIdx.y * p.dim;
  Row weight = Group::read(static_cast<const T*>(p.weight) + begin, dim, true);
  float dweight[kPacks][kWidth] = {};
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * Group::kRows; first < p.rows;
       first += int64_t{gridDim.x} * Group::kRows) {
    const int64_t row = first + Group::group(), at = row * width + begin;
    const bool present = row < p.rows;
    Row x = Group::read(static_cast<const T*>(p.x) + at, dim, present);
    Row gate =
        Group::read(static_cast<const T*>(p.gate) + row * p.gate_stride + begin, dim, present);
    Row dy = Group::read(static_cast<const T*>(p.dy) + at, dim, present);
    float square = 0, dot = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float s = x.at(k, i) * silu(gate.at(k, i)).value;
        square += s * s;
        dot += dy.at(k, i) * weight.at(k, i) * s;
      }
    x.stay_packed(), gate.stay_packed(), dy.stay_packed(), weight.stay_packed();
    turn ^= 1;
    square = Group::sum(square, lanes[turn][0]), dot = Group::sum(dot, lanes[turn][1]);
    if (!present) continue;
    const float rstd = rsqrtf(square / static_cast<float>(dim) + static_cast<float>(p.eps));
    const float mean = dot * rstd / static_cast<float>(dim);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Group::column(k) >= dim) continue;
      float dx[kWidth], dgate[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Activated a = silu(gate.at(k, i));
        const float n = x.at(k, i) * a.value * rstd;
        const float ds = rstd * (dy.at(k, i) * weight.at(k, i) - n * mean);
        dweight[k][i] += dy.at(k, i) * n;
        dx[i] = ds * a.value, dgate[i] = ds * x.at(k, i) * a.slope;
      }
      store<kWidth>(static_cast<T*>(p.dx) + at + Group::column(k), dx);
      store<kWidth>(static_cast<T*>(p.dgate) + at + Group::column(k), dgate);
    }
  }
  Group::write_partial(dweight, dim,
                       static_cast<float*>(p.dweight_partial) + blockIdx.x * width + begin);
}

// The plain way: a block per row of a group, each thread over its own columns.
template <class T>
__device__ float gated_at(const T* x, const T* gate, int64_t j) {
  return wide(x[j]) * silu(wide(gate[j])).value;
}
template <class T>
__device__ float plain_rstd(const T* x, const T* gate, const GatedRmsNormParams& p, float* lanes) {
  float square = 0;
  for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
    square += gated_at(x, gate, j) * gated_at(x, gate, j);
  square = block_sum<kRowThreads>(square, lanes);
  return rsqrtf(square / static_cast<float>(p.dim) + static_cast<float>(p.eps));
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void plain_forward_kernel(const GatedRmsNormParams p) {
  __shared__ float lanes[kRowWarps];
  const int64_t width = p.groups * p.dim, begin = blockIdx.y * p.dim;
  const T* weight = static_cast<const T*>(p.weight) + begin;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row * width + begin;
    const T* gate = static_cast<const T*>(p.gate) + row * p.gate_stride + begin;
    T* y = static_cast<T*>(p.y) + row * width + begin;
    const float rstd = plain_rstd(x, gate, p, lanes);
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
      y[j] = narrow<T>(gated_at(x, gate, j) * rstd * wide(weight[j]));
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void plain_backward_kernel(const GatedRmsNormParams p) {
  __shared__ float lanes[kRowWarps];
  const int64_t width = p.groups * p.dim, begin = blockIdx.y * p.dim;
  const T* weight = static_cast<const T*>(p.weight) + begin;
  float* dweight = static_cast<float*>(p.dweight_partial) + blockIdx.x * width + begin;
  for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) dweight[j] = 0;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int64_t at = row * width + begin;
    const T *x = static_cast<const T*>(p.x) + at, *dy = static_cast<const T*>(p.dy) + at;
    const T* gate = static_cast<const T*>(p.gate) + row * p.gate_stride + begin;
    const float rstd = plain_rstd(x, gate, p, lanes);
    float dot = 0;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
      dot += wide(dy[j]) * wide(weight[j]) * gated_at(x, gate, j);
    const float mean = block_sum<kRowThreads>(dot, lanes) * rstd / static_cast<float>(p.dim);
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
      const Activated a = silu(wide(gate[j]));
      const float n = wide(x[j]) * a.value * rstd;
      const float ds = rstd * (wide(dy[j]) * wide(weight[j]) - n * mean);
      dweight[j] += wide(dy[j]) * n;
      static_cast<T*>(p.dgate)[at + j] = narrow<T>(ds * wide(x[j]) * a.slope);
      static_cast<T*>(p.dx)[at + j] = narrow<T>(ds * a.value);
    }
  }
}

// Calls body(RowGroup) for groups of `dim` channels; false if they are too wide or do not divide
// into packs.
template <class T, class Body>
bool with_group(int64_t dim, const Body& body) {
  if (dim % kPack<T> != 0) return false;
  const int64_t packs = dim / kPack<T>;
  if (packs <= 32) return body(RowGroup<T, 32, 1>()), true;
  if (packs <= 64) return body(RowGroup<T, 32, 2>()), true;
  if (packs <= 128) return body(RowGroup<T, 64, 2>()), true;
  if (packs <= 256) return body(RowGroup<T, 128, 2>()), true;
  if (packs <= 512) return body(RowGroup<T, 256, 2>()), true;
  if (packs <= 1024) return body(RowGroup<T, 256, 4>()), true;
  if (packs <= 2048) return body(RowGroup<T, 256, 8>()), true;
  return false;
}

dim3 blocks_for(const GatedRmsNormParams& p, int64_t rows, int64_t most) {
  return {static_cast<unsigned>(std::min((p.rows + rows - 1) / rows, most)),
          static_cast<unsigned>(p.groups)};
}

bool whole(const GatedRmsNormParams& p, int64_t pack) {
  for (const void* pointer : {p.x, p.gate, p.weight, p.dy, static_cast<const void*>(p.y),
                              static_cast<const void*>(p.dx), static_cast<const void*>(p.dgate)})
    if (!aligned16(pointer)) return false;
  return p.gate_stride % pack == 0;
}

constexpr int64_t kMostBlocks = 1 << 20;  // of a forward pass; far more than run at a time

void launch_forward(const GatedRmsNormParams& p, void* opaque_stream) {
  if (p.rows == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto in_registers = [&](auto group) {
      using Group = decltype(group);
      forward_kernel<Group>
          <<<blocks_for(p, Group::kRows, kMostBlocks), kRowThreads, 0, stream>>>(p);
    };
    if (!whole(p, kPack<T>) || !with_group<T>(p.dim, in_registers))
      plain_forward_kernel<T><<<blocks_for(p, 1, kMostBlocks), kRowThreads, 0, stream>>>(p);
  });
}

void launch_backward(const GatedRmsNormParams& p, void* opaque_stream) {
  if (p.rows == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dim3 blocks = blocks_for(p, 1, p.partials);
    const auto in_registers = [&](auto group) {
      using Group = decltype(group);
      const int64_t resident = std::max<int64_t>(1, kResident<Group> * kSms / p.groups);
      blocks = blocks_for(p, Group::kRows, std::min(resident, p.partials));
      backward_kernel<Group><<<blocks, kRowThreads, 0, stream>>>(p);
    };
    if (!whole(p, kPack<T>) || !with_group<T>(p.dim, in_registers))
      plain_backward_kernel<T><<<blocks, kRowThreads, 0, stream>>>(p);
    add_partials(static_cast<const float*>(p.dweight_partial), blocks.x, p.groups * p.dim,
                 static_cast<float*>(p.dweight), stream);
  });
}

[[maybe_unused]] const bool registered = [] {
  gated_rms_norm_forward_cuda.launch = launch_forward;
  gated_rms_norm_backward_cuda.launch = launch_backward;
  return true;
}();

}  // namespace
}  // namespace ceiling
