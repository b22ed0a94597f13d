// RetNet's epilogue on a GPU: norm of each head's output, times weight, times the gate's
// activation.
// Bound:  HBM. Bytes per element in bfloat16: 6 forward, 10 backward.
// Floor:  at 3.0 TB/s, 32,768 rows x 768: 0.050 ms and 0.084 ms; x 2048: 0.134 ms and 0.224 ms.
//   Close to it is the issue of instructions: 80 per element backward take 0.067 ms and 0.18 ms
//   beside that.
// Layout: a head of a row stays in the registers of a group of 8, 16 or 32 lanes. A group takes
//   every so-manieth head and keeps the weight gradient of its heads in registers (the weight is
//   shared by all); a second kernel adds up the blocks.
// Limits: widths that are no multiple of 16 bytes, or beyond 128 times that, and rows that begin
//   between such multiples take a plain way: one element at a time, heads read twice.
#include <algorithm>

#include "modules/ops/cuda/row_groups.cuh"
#include "modules/ops/head_norm_gate/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

// Blocks of the backward pass on an SM at a time: what the registers allow. In flight are then 36
// KB or more of its three inputs; 18 KB hide 0.8 us at 3.0 TB/s.
template <class Group>
constexpr int kResident = Group::kPacks == 1   ? 4
                          : Group::kPacks == 2 ? 2
                                               : 1;

// From a head to the one that the same group of threads takes next. The host divides, once.
struct Steps {
  int64_t index, gate, gate_wrap;
  int head;

  Steps(const HeadNormGateParams& p, int64_t step)
      : index(step),
        gate(step / p.heads * p.gate_stride + step % p.heads * p.dim),
        gate_wrap(p.gate_stride - p.heads * p.dim),
        head(static_cast<int>(step % p.heads)) {}
};

// Head number `index` of all rows, and where its gate begins.
struct HeadWalk {
  int64_t index, gate;
  int head;

  __device__ HeadWalk(const HeadNormGateParams& p, int64_t first)
      : index(first),
        gate(first / p.heads * p.gate_stride + first % p.heads * p.dim),
        head(static_cast<int>(first % p.heads)) {}
  __device__ int64_t dgate(const HeadNormGateParams& p) const {
    return p.dgate_as_gate ? gate : index * p.dim;
  }
  __device__ void advance(const HeadNormGateParams& p, const Steps& by) {
    index += by.index, gate += by.gate, head += by.head;
    if (head >= p.heads) head -= static_cast<int>(p.heads), gate += by.gate_wrap;
  }
};

template <class Group>
__device__ typename Group::Row weight_or_ones(const HeadNormGateParams& p) {
  using T = typename Group::Type;
  if (p.weight) return Group::read(static_cast<const T*>(p.weight), static_cast<int>(p.dim), true);
  typename Group::Row ones;
  float one[Group::kWidth];
  for (float& x : one) x = 1;
  for (int k = 0; k < Group::kPacks; ++k) ones.set(k, one);
  return ones;
}

template <class Group, Activation kActivation>
__global__ __launch_bounds__(kRowThreads) void forward_kernel(const HeadNormGateParams p,
                                                              const Steps steps) {
  using T = typename Group::Type;
  using Row = typename Group::Row;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  const int dim = static_cast<int>(p.dim);
  const Row weight = weight_or_ones<Group>(p);
  const int64_t n = p.rows * p.heads;
  HeadWalk at(p, int64_t{blockIdx.x} * Group::kRows + Group::group());
  // All threads of a block go round equally often: lanes exchange sums.
  for (; at.index - Group::group() < n; at.advance(p, steps)) {
    const bool present = at.index < n;
    Row o = Group::read(static_cast<const T*>(p.o) + at.index * dim, dim, present);
    const Row gate = Group::read(static_cast<const T*>(p.gate) + at.gate, dim, present);
    float square = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) square += o.at(k, i) * o.at(k, i);
    o.stay_packed();
    square = Group::sum(square, nullptr);
    const float rstd = rsqrtf(square / static_cast<float>(dim) + static_cast<float>(p.eps));
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (!present || Group::column(k) >= dim) continue;
      float y[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        y[i] = o.at(k, i) * rstd * weight.at(k, i) * activate<kActivation>(gate.at(k, i)).value;
      store<kWidth>(static_cast<T*>(p.y) + at.index * dim + Group::column(k), y);
    }
  }
}

// With n = o rstd, s = act(gate), h = dy s w:  do = rstd (h - n mean(h n)),  dgate = dy n w s',
// dw = sum dy s n.
template <class Group, Activation kActivation>
__global__ __launch_bounds__(kRowThreads,
                             kResident<Group>) void backward_kernel(const HeadNormGateParams p,
                                                                    const Steps steps) {
  using T = typename Group::Type;
  using Row = typename Group::Row;
  constexpr int kWidth = Group::kWidth, kPacks = Group::kPacks;
  const int dim = static_cast<int>(p.dim);
  Row weight = weight_or_ones<Group>(p);
  float dweight[kPacks][kWidth] = {};
  const int64_t n = p.rows * p.heads;
  HeadWalk at(p, int64_t{blockIdx.x} * Group::kRows + Group::group());
  for (; at.index - Group::group() < n; at.advance(p, steps)) {
    const bool present = at.index < n;
    Row o = Group::read(static_cast<const T*>(p.o) + at.index * dim, dim, present);
    const Row gate = Group::read(static_cast<const T*>(p.gate) + at.gate, dim, present);
    const Row dy = Group::read(static_cast<const T*>(p.dy) + at.index * dim, dim, present);
    float through[kPacks][kWidth], slope[kPacks][kWidth];  // dy s, and dy w s' o
    float square = 0, dot = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Activated s = activate<kActivation>(gate.at(k, i));
        const float w = weight.at(k, i);
        through[k][i] = dy.at(k, i) * s.value;
        slope[k][i] = dy.at(k, i) * w * s.slope * o.at(k, i);
        square += o.at(k, i) * o.at(k, i);
        dot += through[k][i] * w * o.at(k, i);
      }
    o.stay_packed(), weight.stay_packed();
    square = Group::sum(square, nullptr), dot = Group::sum(dot, nullptr);
    if (!present) continue;
    const float rstd = rsqrtf(square / static_cast<float>(dim) + static_cast<float>(p.eps));
    const float mean = dot * rstd / static_cast<float>(dim);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Group::column(k) >= dim) continue;
      float d_o[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float normed = o.at(k, i) * rstd;
        d_o[i] = rstd * (through[k][i] * weight.at(k, i) - normed * mean);
        slope[k][i] *= rstd;
        dweight[k][i] += through[k][i] * normed;
      }
      store<kWidth>(static_cast<T*>(p.d_o) + at.index * dim + Group::column(k), d_o);
      store<kWidth>(static_cast<T*>(p.dgate) + at.dgate(p) + Group::column(k), slope[k]);
    }
  }
  if (p.weight)
    Group::write_partial(dweight, dim, static_cast<float*>(p.dweight_partial) + blockIdx.x * p.dim);
}

// The plain way: a block per head, each thread over its own columns.
template <class T>
__device__ float plain_rstd(const T* o, int64_t dim, double eps, float* lanes) {
  float square = 0;
  for (int64_t j = threadIdx.x; j < dim; j += kRowThreads) square += wide(o[j]) * wide(o[j]);
  square = block_sum<kRowThreads>(square, lanes);
  return rsqrtf(square / static_cast<float>(dim) + static_cast<float>(eps));
}

template <class T, Activation kActivation>
__global__ __launch_bounds__(kRowThreads) void plain_forward_kernel(const HeadNormGateParams p,
                                                                    const Steps steps) {
  __shared__ float lanes[kRowWarps];
  const T* weight = static_cast<const T*>(p.weight);
  for (HeadWalk at(p, blockIdx.x); at.index < p.rows * p.heads; at.advance(p, steps)) {
    const T* o = static_cast<const T*>(p.o) + at.index * p.dim;
    const T* gate = static_cast<const T*>(p.gate) + at.gate;
    T* y = static_cast<T*>(p.y) + at.index * p.dim;
    const float rstd = plain_rstd(o, p.dim, p.eps, lanes);
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
      const float w = weight ? wide(weight[j]) : 1.0f;
      y[j] = narrow<T>(wide(o[j]) * rstd * w * activate<kActivation>(wide(gate[j])).value);
    }
  }
}

template <class T, Activation kActivation>
__global__ __launch_bounds__(kRowThreads) void plain_backward_kernel(const HeadNormGateParams p,
                                                                     const Steps steps) {
  __shared__ float lanes[kRowWarps];
  const T* weight = static_cast<const T*>(p.weight);
  float* dweight = weight ? static_cast<float*>(p.dweight_partial) + blockIdx.x * p.dim : nullptr;
  for (int64_t j = threadIdx.x; weight && j < p.dim; j += kRowThreads) dweight[j] = 0;
  for (HeadWalk at(p, blockIdx.x); at.index < p.rows * p.heads; at.advance(p, steps)) {
    const T* o = static_cast<const T*>(p.o) + at.index * p.dim;
    const T* gate = static_cast<const T*>(p.gate) + at.gate;
    const T* dy = static_cast<const T*>(p.dy) + at.index * p.dim;
    T* d_o = static_cast<T*>(p.d_o) + at.index * p.dim;
    T* dgate = static_cast<T*>(p.dgate) + at.dgate(p);
    const float rstd = plain_rstd(o, p.dim, p.eps, lanes);
    float dot = 0;
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
      const float w = weight ? wide(weight[j]) : 1.0f;
      dot += wide(dy[j]) * activate<kActivation>(wide(gate[j])).value * w * wide(o[j]);
    }
    const float mean = block_sum<kRowThreads>(dot, lanes) * rstd / static_cast<float>(p.dim);
    for (int64_t j = threadIdx.x; j < p.dim; j += kRowThreads) {
      const Activated s = activate<kActivation>(wide(gate[j]));
      const float w = weight ? wide(weight[j]) : 1.0f, normed = wide(o[j]) * rstd;
      const float through = wide(dy[j]) * s.value;
      d_o[j] = narrow<T>(rstd * (through * w - normed * mean));
      dgate[j] = narrow<T>(wide(dy[j]) * normed * w * s.slope);
      if (weight) dweight[j] += through * normed;
    }
  }
}

// Calls body(RowGroup) for heads of `dim` elements; false if they are too wide or do not divide
// into packs.
template <class T, class Body>
bool with_group(int64_t dim, const Body& body) {
  if (dim % kPack<T> != 0) return false;
  const int64_t packs = dim / kPack<T>;
  if (packs <= 8) return body(RowGroup<T, 8, 1>()), true;
  if (packs <= 16) return body(RowGroup<T, 16, 1>()), true;
  if (packs <= 32) return body(RowGroup<T, 32, 1>()), true;
  if (packs <= 64) return body(RowGroup<T, 32, 2>()), true;
  if (packs <= 128) return body(RowGroup<T, 32, 4>()), true;
  return false;
}

// Blocks for all heads, `heads` at a time, but at most `most`.
unsigned blocks_for(const HeadNormGateParams& p, int64_t heads, int64_t most) {
  return static_cast<unsigned>(std::min((p.rows * p.heads + heads - 1) / heads, most));
}

// The rows of the gate begin at multiples of 16 bytes.
template <class T>
bool aligned_gate(const HeadNormGateParams& p) {
  return aligned16(p.gate) && (p.rows == 1 || p.gate_stride % kPack<T> == 0);
}

constexpr int64_t kMostBlocks = 8 * kSms;  // of a forward pass; as many as run at a time

void launch_forward(const HeadNormGateParams& p, void* opaque_stream) {
  if (p.rows * p.heads == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  with_type(p.type, [&](auto tag) {
    with_activation(p.activation, [&](auto kind) {
      using T = typename decltype(tag)::type;
      constexpr Activation kActivation = decltype(kind)::value;
      const auto in_registers = [&](auto group) {
        using Group = decltype(group);
        const unsigned blocks = blocks_for(p, Group::kRows, kMostBlocks);
        forward_kernel<Group, kActivation>
            <<<blocks, kRowThreads, 0, stream>>>(p, Steps(p, int64_t{blocks} * Group::kRows));
      };
      if (aligned16(p.o) && aligned_gate<T>(p) && aligned16(p.weight) && aligned16(p.y) &&
          with_group<T>(p.dim, in_registers))
        return;
      const unsigned blocks = blocks_for(p, 1, kMostBlocks);
      plain_forward_kernel<T, kActivation><<<blocks, kRowThreads, 0, stream>>>(p, Steps(p, blocks));
    });
  });
}

void launch_backward(const HeadNormGateParams& p, void* opaque_stream) {
  if (p.rows * p.heads == 0) return;
  const auto stream = static_cast<cudaStream_t>(opaque_stream);
  with_type(p.type, [&](auto tag) {
    with_activation(p.activation, [&](auto kind) {
      using T = typename decltype(tag)::type;
      constexpr Activation kActivation = decltype(kind)::value;
      unsigned blocks = blocks_for(p, 1, p.partials);
      const auto in_registers = [&](auto group) {
        using Group = decltype(group);
        blocks =
            blocks_for(p, Group::kRows, std::min<int64_t>(kResident<Group> * kSms, p.partials));
        backward_kernel<Group, kActivation>
            <<<blocks, kRowThreads, 0, stream>>>(p, Steps(p, int64_t{blocks} * Group::kRows));
      };
      const bool aligned = aligned16(p.o) && aligned_gate<T>(p) && aligned16(p.weight) &&
                           aligned16(p.dy) && aligned16(p.d_o) && aligned16(p.dgate);
      if (!aligned || !with_group<T>(p.dim, in_registers))
        plain_backward_kernel<T, kActivation>
            <<<blocks, kRowThreads, 0, stream>>>(p, Steps(p, blocks));
      if (p.weight)
        add_partials(static_cast<const float*>(p.dweight_partial), blocks, p.dim,
                     static_cast<float*>(p.dweight), stream);
    });
  });
}

[[maybe_unused]] const bool registered = [] {
  head_norm_gate_forward_cuda.launch = launch_forward;
  head_norm_gate_backward_cuda.launch = launch_backward;
  return true;
}();

}  // namespace
}  // namespace ceiling
