// RMSNorm on a GPU, of x or of x + residual.
// Bound:  HBM. Bytes per element in bfloat16: 4 forward (8 with a residual), 6 backward (8 with a
//   gradient at the sum).
// Floor:  at 3.0 TB/s, 32,768 rows x 768: 0.034 ms (0.067) and 0.050 ms (0.067);
//   x 2048: 0.089 ms (0.179) and 0.134 ms (0.179).
// Layout: a row stays in the registers of a warp, or from 2,048 bfloat16 channels on of several,
//   between the sum over it and its use. A block of the backward pass takes every so-manieth row
//   and keeps the weight gradient of its rows in registers; a second kernel adds up the blocks.
// Limits: widths that are no multiple of 16 bytes, or beyond 2,048 times that, and pointers between
//   such multiples take a plain way: one element at a time, rows read twice.
#include <algorithm>

#include "modules/ops/cuda/row_groups.cuh"
#include "modules/ops/rms_norm/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

// Blocks of the backward pass on an SM at a time: what the registers allow. In flight are then 32
// KB or more of its two or three inputs; 18 KB hide 0.8 us at 3.0 TB/s.
template <class Group>
constexpr int kResident = Group::kPacks == 1   ? 4
                          : Group::kPacks == 2 ? 3
                          : Group::kPacks <= 4 ? 2
                                               : 1;

template <class Group>
__global__ __launch_bounds__(kRowThreads) void forward_kernel(const RmsNormParams p) {
  using T = typename Group::Type;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  __shared__ float lanes[2][kRowWarps];
  const int dim = static_cast<int>(p.dim);
  typename Group::Row weight = Group::read(static_cast<const T*>(p.weight), dim, true);
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * Group::kRows; first < p.rows;
       first += int64_t{gridDim.x} * Group::kRows) {
    const int64_t row = first + Group::group(), at = row * dim;
    const bool present = row < p.rows;
    typename Group::Row x = Group::read(static_cast<const T*>(p.x) + at, dim, present);
    if (p.residual) {
      const typename Group::Row residual =
          Group::read(static_cast<const T*>(p.residual) + at, dim, present);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        float sum[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum[i] = x.at(k, i) + residual.at(k, i);
        x.set(k, sum);  // normalise what is stored, rounding included
        if (present && Group::column(k) < dim)
          store<kWidth>(static_cast<T*>(p.sum) + at + Group::column(k), sum);
      }
    }
    float square = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) square += x.at(k, i) * x.at(k, i);
    x.stay_packed();
    square = Group::sum(square, lanes[turn ^= 1]);
    if (!present) continue;
    weight.stay_packed();
    const float rstd = rsqrtf(square / static_cast<float>(dim) + static_cast<float>(p.eps));
    if (Group::lane() == 0) static_cast<float*>(p.rstd)[row] = rstd;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Group::column(k) >= dim) continue;
      float y[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) y[i] = x.at(k, i) * rstd * weight.at(k, i);
      store<kWidth>(static_cast<T*>(p.y) + at + Group::column(k), y);
    }
  }
}

// With xhat = x rstd, h = dy w:  dx = rstd (h - xhat mean(h xhat)),  dw = sum dy xhat.
template <class Group>
__global__ __launch_bounds__(kRowThreads,
                             kResident<Group>) void backward_kernel(const RmsNormParams p) {
  using T = typename Group::Type;
  using Row = typename Group::Row;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  __shared__ float lanes[2][kRowWarps];
  const int dim = static_cast<int>(p.dim);
  Row weight = Group::read(static_cast<const T*>(p.weight), dim, true);
  float dweight[kPacks][kWidth] = {};
  int turn = 0;
  for (int64_t first = int64_t{blockIdx.x} * Group::kRows; first < p.rows;
       first += int64_t{gridDim.x} * Group::kRows) {
    const int64_t row = first + Group::group(), at = row * dim;
    const bool present = row < p.rows;
    Row x = Group::read(static_cast<const T*>(p.x) + at, dim, present);
    Row dy = Group::read(static_cast<const T*>(p.dy) + at, dim, present);
    const Row dsum = Group::read(static_cast<const T*>(p.dsum) + at, dim, present && p.dsum);
    const float rstd = present ? static_cast<const float*>(p.rstd)[row] : 0.0f;
    float dot = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) dot += dy.at(k, i) * weight.at(k, i) * x.at(k, i);
    x.stay_packed(), dy.stay_packed(), weight.stay_packed();
    const float mean = Group::sum(dot, lanes[turn ^= 1]) * rstd / static_cast<float>(dim);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      float dx[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float xhat = x.at(k, i) * rstd;
        dweight[k][i] += dy.at(k, i) * xhat;
        dx[i] = rstd * (dy.at(k, i) * weight.at(k, i) - xhat * mean) + dsum.at(k, i);
      }
      if (present && Group::column(k) < dim)
        store<kWidth>(static_cast<T*>(p.dx) + at + Group::column(k), dx);
    }
  }
  Group::write_partial(dweight, dim, static_cast<float*>(p.dweight_partial) + blockIdx.x * p.dim);
}

// The plain way: a block per row, each thread over its own columns.
template <class T>
__global__ __launch_bounds__(kRowThreads) void plain_forward_kernel(const RmsNormParams p) {
  __shared__ float lanes[kRowWarps];
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row * p.dim;
    if (p.residual) {
      const T* residual = static_cast<const T*>(p.residual) + row * p.dim;
      T* sum = static_cast<T*>(p.sum) + row * p.dim;
      for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
        sum[j] = narrow<T>(wide(x[j]) + wide(residual[j]));
      x = sum;  // of which a thread reads what it wrote itself
    }
    float square = 0;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) square += wide(x[j]) * wide(x[j]);
    square = block_sum<kRowThreads>(square, lanes);
    const float rstd = rsqrtf(square / static_cast<float>(p.dim) + static_cast<float>(p.eps));
    if (threadIdx.x == 0) static_cast<float*>(p.rstd)[row] = rstd;
    T* y = static_cast<T*>(p.y) + row * p.dim;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
      y[j] = narrow<T>(wide(x[j]) * rstd * wide(weight[j]));
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void plain_backward_kernel(const RmsNormParams p) {
  __shared__ float lanes[kRowWarps];
  const T* weight = static_cast<const T*>(p.weight);
  float* dweight = static_cast<float*>(p.dweight_partial) + blockIdx.x * p.dim;
  for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) dweight[j] = 0;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row * p.dim;
    const T* dy = static_cast<const T*>(p.dy) + row * p.dim;
    const T* dsum = p.dsum ? static_cast<const T*>(p.dsum) + row * p.dim : nullptr;
    T* dx = static_cast<T*>(p.dx) + row * p.dim;
    const float rstd = static_cast<const float*>(p.rstd)[row];
    float dot = 0;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
      dot += wide(dy[j]) * wide(weight[j]) * wide(x[j]);
    const float mean = block_sum<kRowThreads>(dot, lanes) * rstd / static_cast<float>(p.dim);
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
      const float xhat = wide(x[j]) * rstd;
      dweight[j] += wide(dy[j]) * xhat;
      const float through = rstd * (wide(dy[j]) * wide(weight[j]) - xhat * mean);
      dx[j] = narrow<T>(dsum ? through + wide(dsum[j]) : through);
    }
  }
}

void launch_forward(const RmsNormParams& p, void* opaque_stream) {
  if (p.rows == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto in_registers = [&](auto group) {
      using Group = decltype(group);
      forward_kernel<Group><<<row_blocks(p.rows, Group::kRows), kRowThreads, 0, stream>>>(p);
    };
    if (aligned16(p.x) && aligned16(p.residual) && aligned16(p.sum) && aligned16(p.weight) &&
        aligned16(p.y) && with_row_group<T>(p.dim, in_registers))
      return;
    plain_forward_kernel<T><<<row_blocks(p.rows, 1), kRowThreads, 0, stream>>>(p);
  });
}

void launch_backward(const RmsNormParams& p, void* opaque_stream) {
  if (p.rows == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    unsigned blocks = row_blocks(p.rows, 1, p.partials);
    const auto in_registers = [&](auto group) {
      using Group = decltype(group);
      blocks =
          row_blocks(p.rows, Group::kRows, std::min<int64_t>(kResident<Group> * kSms, p.partials));
      backward_kernel<Group><<<blocks, kRowThreads, 0, stream>>>(p);
    };
    const bool aligned = aligned16(p.x) && aligned16(p.weight) && aligned16(p.dy) &&
                         aligned16(p.dsum) && aligned16(p.dx);
    if (!aligned || !with_row_group<T>(p.dim, in_registers))
      plain_backward_kernel<T><<<blocks, kRowThreads, 0, stream>>>(p);
    add_partials(static_cast<const float*>(p.dweight_partial), blocks, p.dim,
                 static_cast<float*>(p.dweight), stream);
  });
}

[[maybe_unused]] const bool registered = [] {
  rms_norm_forward_cuda.launch = launch_forward;
  rms_norm_backward_cuda.launch = launch_backward;
  return true;
}();

}  // namespace
}  // namespace ceiling
