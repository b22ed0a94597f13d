// LayerNorm on a GPU.
// Bound:  HBM. Bytes per element in bfloat16: 4 forward, 6 backward.
// Floor:  at 3.0 TB/s, 32,768 rows x 768: 0.034 ms and 0.050 ms; x 2048: 0.089 ms and 0.134 ms.
// Layout: as rms_norm's: a row stays in registers between the two sums over it and its use; a block
//   of the backward pass keeps the gradients of weight and bias in registers.
// Limits: rows that are no whole pieces of 16 bytes, or too wide, go one element at a time.
#include "modules/ops/cuda/row_groups.cuh"
#include "modules/ops/layer_norm/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

// Blocks of the backward pass on an SM at a time: what the registers allow, which hold two sums for
// each column.
template <class Group>
constexpr int kResident = Group::kPacks == 1   ? 3
                          : Group::kPacks <= 3 ? 2
                                               : 1;

template <class Group>
__global__ __launch_bounds__(kRowThreads) void forward_kernel(const LayerNormParams p) {
  using T = typename Group::Type;
  using Row = typename Group::Row;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  __shared__ float lanes[2][kRowWarps];
  const int dim = static_cast<int>(p.dim);
  Row weight = Group::read(static_cast<const T*>(p.weight), dim, true);
  Row bias = Group::read(static_cast<const T*>(p.bias), dim, p.bias != nullptr);
  for (int64_t first = int64_t{blockIdx.x} * Group::kRows; first < p.rows;
       first += int64_t{gridDim.x} * Group::kRows) {
    const int64_t row = first + Group::group(), at = row * dim;
    const bool present = row < p.rows;
    Row x = Group::read(static_cast<const T*>(p.x) + at, dim, present);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum += x.at(k, i);
    x.stay_packed();
    const float mean = Group::sum(sum, lanes[0]) / static_cast<float>(dim);
    float square = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Group::column(k) >= dim) continue;  // zeros that are no part of the row
#pragma unroll
      for (int i = 0; i < kWidth; ++i) square += (x.at(k, i) - mean) * (x.at(k, i) - mean);
    }
    x.stay_packed();
    square = Group::sum(square, lanes[1]);
    if (!present) continue;
    weight.stay_packed(), bias.stay_packed();
    const float rstd = rsqrtf(square / static_cast<float>(dim) + static_cast<float>(p.eps));
    if (Group::lane() == 0)
      static_cast<float*>(p.mean)[row] = mean, static_cast<float*>(p.rstd)[row] = rstd;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Group::column(k) >= dim) continue;
      float y[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        y[i] = (x.at(k, i) - mean) * rstd * weight.at(k, i) + bias.at(k, i);
      store<kWidth>(static_cast<T*>(p.y) + at + Group::column(k), y);
    }
  }
}

// README.md has the formulas.
template <class Group>
__global__ __launch_bounds__(kRowThreads,
                             kResident<Group>) void backward_kernel(const LayerNormParams p) {
  using T = typename Group::Type;
  using Row = typename Group::Row;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  __shared__ float lanes[2][kRowWarps];
  const int dim = static_cast<int>(p.dim);
  Row weight = Group::read(static_cast<const T*>(p.weight), dim, true);
  float dweight[kPacks][kWidth] = {}, dbias[kPacks][kWidth] = {};
  for (int64_t first = int64_t{blockIdx.x} * Group::kRows; first < p.rows;
       first += int64_t{gridDim.x} * Group::kRows) {
    const int64_t row = first + Group::group(), at = row * dim;
    const bool present = row < p.rows;
    Row x = Group::read(static_cast<const T*>(p.x) + at, dim, present);
    Row dy = Group::read(static_cast<const T*>(p.dy) + at, dim, present);
    const float mean = present ? static_cast<const float*>(p.mean)[row] : 0.0f,
                rstd = present ? static_cast<const float*>(p.rstd)[row] : 0.0f;
    // Beyond the row dy is zero.
    float of_h = 0, of_product = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float h = dy.at(k, i) * weight.at(k, i);
        of_h += h, of_product += h * (x.at(k, i) - mean);
      }
    x.stay_packed(), dy.stay_packed(), weight.stay_packed();
    of_h = Group::sum(of_h, lanes[0]) / static_cast<float>(dim);
    of_product = Group::sum(of_product, lanes[1]) * rstd / static_cast<float>(dim);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      float dx[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float xhat = (x.at(k, i) - mean) * rstd;
        dweight[k][i] += dy.at(k, i) * xhat;
        dbias[k][i] += dy.at(k, i);
        dx[i] = rstd * (dy.at(k, i) * weight.at(k, i) - of_h - xhat * of_product);
      }
      if (present && Group::column(k) < dim)
        store<kWidth>(static_cast<T*>(p.dx) + at + Group::column(k), dx);
    }
  }
  Group::write_partial(dweight, dim, static_cast<float*>(p.dweight_partial) + blockIdx.x * p.dim);
  if (p.dbias_partial)
    Group::write_partial(dbias, dim, static_cast<float*>(p.dbias_partial) + blockIdx.x * p.dim);
}

// The plain way: a block per row, each thread over its own columns.
template <class T>
__global__ __launch_bounds__(kRowThreads) void plain_forward_kernel(const LayerNormParams p) {
  __shared__ float lanes[kRowWarps];
  const T *weight = static_cast<const T*>(p.weight), *bias = static_cast<const T*>(p.bias);
  const float dim = static_cast<float>(p.dim);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row * p.dim;
    float sum = 0, square = 0;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) sum += wide(x[j]);
    const float mean = block_sum<kRowThreads>(sum, lanes) / dim;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
      square += (wide(x[j]) - mean) * (wide(x[j]) - mean);
    square = block_sum<kRowThreads>(square, lanes);
    const float rstd = rsqrtf(square / dim + static_cast<float>(p.eps));
    if (threadIdx.x == 0)
      static_cast<float*>(p.mean)[row] = mean, static_cast<float*>(p.rstd)[row] = rstd;
    T* y = static_cast<T*>(p.y) + row * p.dim;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads)
      y[j] = narrow<T>((wide(x[j]) - mean) * rstd * wide(weight[j]) + (bias ? wide(bias[j]) : 0));
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void plain_backward_kernel(const LayerNormParams p) {
  __shared__ float lanes[kRowWarps];
  const T* weight = static_cast<const T*>(p.weight);
  const float dim = static_cast<float>(p.dim);
  float* dweight = static_cast<float*>(p.dweight_partial) + blockIdx.x * p.dim;
  float* dbias =
      p.dbias_partial ? static_cast<float*>(p.dbias_partial) + blockIdx.x * p.dim : nullptr;
  for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
    dweight[j] = 0;
    if (dbias) dbias[j] = 0;
  }
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row * p.dim;
    const T* dy = static_cast<const T*>(p.dy) + row * p.dim;
    T* dx = static_cast<T*>(p.dx) + row * p.dim;
    const float mean = static_cast<const float*>(p.mean)[row],
                rstd = static_cast<const float*>(p.rstd)[row];
    float of_h = 0, of_product = 0;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
      const float h = wide(dy[j]) * wide(weight[j]);
      of_h += h, of_product += h * (wide(x[j]) - mean);
    }
    of_h = block_sum<kRowThreads>(of_h, lanes) / dim;
    of_product = block_sum<kRowThreads>(of_product, lanes) * rstd / dim;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
      const float xhat = (wide(x[j]) - mean) * rstd;
      dweight[j] += wide(dy[j]) * xhat;
      if (dbias) dbias[j] += wide(dy[j]);
      dx[j] = narrow<T>(rstd * (wide(dy[j]) * wide(weight[j]) - of_h - xhat * of_product));
    }
  }
}

void launch_forward(const LayerNormParams& p, void* opaque_stream) {
  if (p.rows == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto in_registers = [&](auto group) {
      using Group = decltype(group);
      forward_kernel<Group><<<row_blocks(p.rows, Group::kRows), kRowThreads, 0, stream>>>(p);
    };
    const bool aligned =
        aligned16(p.x) && aligned16(p.weight) && aligned16(p.bias) && aligned16(p.y);
    if (!aligned || !with_row_group<T>(p.dim, in_registers))
      plain_forward_kernel<T><<<row_blocks(p.rows, 1), kRowThreads, 0, stream>>>(p);
  });
}

void launch_backward(const LayerNormParams& p, void* opaque_stream) {
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
    const bool aligned =
        aligned16(p.x) && aligned16(p.weight) && aligned16(p.dy) && aligned16(p.dx);
    if (!aligned || !with_row_group<T>(p.dim, in_registers))
      plain_backward_kernel<T><<<blocks, kRowThreads, 0, stream>>>(p);
    add_partials(static_cast<const float*>(p.dweight_partial), blocks, p.dim,
                 static_cast<float*>(p.dweight), stream);
    if (p.dbias)
      add_partials(static_cast<const float*>(p.dbias_partial), blocks, p.dim,
                   static_cast<float*>(p.dbias), stream);
  });
}

[[maybe_unused]] const bool registered = [] {
  layer_norm_forward_cuda.launch = launch_forward;
  layer_norm_backward_cuda.launch = launch_backward;
  return true;
}();

}  // namespace
}  // namespace ceiling
