// For kernel_cuda.cu files of norms: rows that stay in registers between the sum over them and its
// use, and weight gradients as partial sums that are added in a fixed order.
#pragma once
#include <algorithm>
#include <cstring>

#include "modules/ops/cuda/vector.cuh"

namespace ceiling::gpu {

constexpr int kRowThreads = 256;  // of a block
constexpr int kRowWarps = kRowThreads / kWarp;

// kGroup neighbouring threads hold a row, kPacks packs of 16 bytes each; neighbours hold
// neighbouring packs. The width of the row is a multiple of a pack and at most kGroup kPacks packs.
template <class T, int kGroup_, int kPacks_>
struct RowGroup {
  static constexpr int kGroup = kGroup_, kPacks = kPacks_;
  static constexpr int kWidth = kPack<T>;             // elements of a pack
  static constexpr int kRows = kRowThreads / kGroup;  // that a block holds at a time
  using Type = T;
  static_assert(kGroup % 8 == 0 && kRowThreads % kGroup == 0, "a group is part of a warp or whole");

  struct Row {
    uint4 packs[kPacks];

    __device__ __forceinline__ float at(int pack, int i) const {
      const uint32_t words[] = {packs[pack].x, packs[pack].y, packs[pack].z, packs[pack].w};
      if constexpr (sizeof(T) == 4) return __uint_as_float(words[i]);
      // A bfloat16 is the upper half of a float.
      const uint32_t both = words[i / 2];
      return __uint_as_float(i % 2 == 0 ? both << 16 : both & 0xffff0000u);
    }
    __device__ __forceinline__ void set(int pack, const float (&from)[kWidth]) {
      Pack<T, kWidth> narrowed;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) narrowed.at[i] = narrow<T>(from[i]);
      static_assert(sizeof(narrowed) == sizeof(uint4), "a pack is 16 bytes");
      memcpy(&packs[pack], &narrowed, sizeof(uint4));
    }
    // From here on elements are unpacked anew. Otherwise the compiler keeps all of them as floats
    // from their first use to their last, twice the registers.
    __device__ __forceinline__ void stay_packed() {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        asm volatile("" : "+r"(packs[p].x), "+r"(packs[p].y), "+r"(packs[p].z), "+r"(packs[p].w));
    }
  };
  __device__ static __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kGroup; }
  __device__ static __forceinline__ int group() { return static_cast<int>(threadIdx.x) / kGroup; }
  __device__ static __forceinline__ int column(int pack) {
    return (pack * kGroup + lane()) * kWidth;
  }

  // Zeros beyond `dim`, and everywhere if the row is not `present`.
  __device__ static __forceinline__ Row read(const T* row, int dim, bool present) {
    Row to;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      to.packs[p] = {};
      if (present && column(p) < dim)
        to.packs[p] = *reinterpret_cast<const uint4*>(row + column(p));
    }
    return to;
  }

  // The sum over the group, in each of its threads. All threads of the block take part. `lanes`:
  // kRowWarps floats of shared memory, not those of the call before: one barrier is enough then.
  __device__ static __forceinline__ float sum(float x, float* lanes) {
#pragma unroll
    for (int offset = (kGroup < kWarp ? kGroup : kWarp) / 2; offset > 0; offset /= 2)
      x += __shfl_xor_sync(0xffffffffu, x, offset);
    if constexpr (kGroup > kWarp) {
      if (threadIdx.x % kWarp == 0) lanes[threadIdx.x / kWarp] = x;
      __syncthreads();
      x = 0;
#pragma unroll
      for (int warp = 0; warp < kGroup / kWarp; ++warp) x += lanes[group() * kGroup / kWarp + warp];
    }
    return x;
  }

  // What the groups of the block have summed for each column, added up in order -> [dim].
  __device__ static __forceinline__ void write_partial(float (&sums)[kPacks][kWidth], int dim,
                                                       float* partial) {
    if constexpr (kGroup < kWarp) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
#pragma unroll
        for (int i = 0; i < kWidth; ++i)
#pragma unroll
          for (int offset = kWarp / 2; offset >= kGroup; offset /= 2)
            sums[p][i] += __shfl_xor_sync(0xffffffffu, sums[p][i], offset);
    }
    constexpr int kTeam = kGroup < kWarp ? kWarp : kGroup, kTeams = kRowThreads / kTeam;
    const int team = static_cast<int>(threadIdx.x) / kTeam;
    const bool writes = static_cast<int>(threadIdx.x) % kTeam < kGroup;
    if constexpr (kTeams > 1) {
      __shared__ float totals[kPacks][kWidth][kGroup];
      for (int turn = 0; turn < kTeams; ++turn) {
        if (team == turn && writes) {
#pragma unroll
          for (int p = 0; p < kPacks; ++p)
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
              if (turn > 0) sums[p][i] += totals[p][i][lane()];
              if (turn < kTeams - 1) totals[p][i][lane()] = sums[p][i];
            }
        }
        __syncthreads();
      }
    }
    if (team != kTeams - 1 || !writes) return;
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (column(p) < dim) store<kWidth>(partial + column(p), sums[p]);
  }
};

// Calls body(RowGroup) for rows of `dim` elements; false if they are too wide or do not divide into
// packs.
template <class T, class Body>
bool with_row_group(int64_t dim, const Body& body) {
  if (dim % kPack<T> != 0) return false;
  const int64_t packs = dim / kPack<T>;
  if (packs <= 32) return body(RowGroup<T, 32, 1>()), true;
  if (packs <= 64) return body(RowGroup<T, 32, 2>()), true;
  if (packs <= 96) return body(RowGroup<T, 32, 3>()), true;
  if (packs <= 128) return body(RowGroup<T, 32, 4>()), true;
  if (packs <= 256) return body(RowGroup<T, 128, 2>()), true;
  if (packs <= 512) return body(RowGroup<T, 256, 2>()), true;
  if (packs <= 1024) return body(RowGroup<T, 256, 4>()), true;
  if (packs <= 2048) return body(RowGroup<T, 256, 8>()), true;
  return false;
}

// Blocks for all rows, `each` at a time, but at most `most`: by default far more than run at a
// time.
inline unsigned row_blocks(int64_t rows, int64_t each, int64_t most = 1 << 20) {
  return static_cast<unsigned>(std::min((rows + each - 1) / each, most));
}

// into [dim] += the sum of partial [n, dim] over its rows.
template <int kLines>
__global__ __launch_bounds__(kWarp* kLines) void add_partials_kernel(const float* partial,
                                                                     int64_t n, int64_t dim,
                                                                     float* into) {
  static_assert(kLines == kWarp, "the block is turned over below");
  __shared__ float sums[kLines][kWarp + 1];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int line = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t first = int64_t{blockIdx.x} * kWarp;
  float sum = 0;
  if (first + lane < dim) {
#pragma unroll 4
    for (int64_t row = line; row < n; row += kLines) sum += partial[row * dim + first + lane];
  }
  sums[line][lane] = sum;
  __syncthreads();
  sum = warp_sum(sums[lane][line]);
  if (lane == 0 && first + line < dim) into[first + line] += sum;
}

inline void add_partials(const float* partial, int64_t n, int64_t dim, float* into,
                         cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((dim + kWarp - 1) / kWarp);
  add_partials_kernel<kWarp><<<blocks, kWarp * kWarp, 0, stream>>>(partial, n, dim, into);
}

}  // namespace ceiling::gpu
