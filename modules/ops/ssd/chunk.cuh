// For reads_cuda.cu and sources_cuda.cu, the backward of ssd within chunks: what a block works on,
// its copies into shared memory, and the products of a warpgroup's 64 tokens with a state.
#pragma once
#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/cuda/wgmma.cuh"
#include "modules/ops/ssd/cuda.h"

namespace ceiling::gpu {

constexpr int kC = kSsdChunk, kP = 64, kWarps = kC / 16, kThreads = kWarps * kWarp;
constexpr int kStages = 2;

using Rows = Tile<kP>;   // of x and dy
using Pairs = Tile<kC>;  // source x reader
constexpr uint32_t kRowBytes = Rows::at(kC, 0), kVectorBytes = kC * 4;
// Products of B and C in float32, by tiles of 16 x 16 on or above the diagonal; a lane keeps its
// own eight.
constexpr uint32_t kScoreTile = 16 * 16 * 4;
constexpr uint32_t kScoreBytes = kWarps * (kWarps + 1) / 2 * kScoreTile;

template <int kN>
struct Shape {
  using Wide = PanelTile<kN, kC>;   // of B and C
  using State = PanelTile<kN, kP>;  // transposed
  static constexpr uint32_t kWideBytes = Wide::kBytes, kStateBytes = State::kBytes;
  // reads_kernel: C, then stages of dy, state, decays.
  static constexpr uint32_t kReadsState = kRowBytes, kReadsDecay = kReadsState + kStateBytes,
                            kReadsStage = kReadsDecay + 1024,
                            kReadsBytes = kWideBytes + kStages * kReadsStage;
  // sources_kernel: B, products, then stages of x, dy, state after, decays, steps,
  // state before.
  static constexpr uint32_t kDy = kRowBytes, kState = 2 * kRowBytes, kDecay = kState + kStateBytes,
                            kStep = kDecay + kVectorBytes, kBefore = kStep + kVectorBytes,
                            kStage = kBefore + kStateBytes, kLent = 3 * 16 * kP * 2,
                            kBytes = kWideBytes + kScoreBytes + kStages * kStage + kLent;
  static_assert(kWideBytes <= kStage && Pairs::at(kC, 0) <= kStage,
                "C, and sums over heads, take the place of a stage");
  static_assert(kBytes <= 218 * 1024 && 2 * kReadsBytes <= 226 * 1024, "shared memory of an SM");
  static_assert(kReadsState % 1024 == 0 && kReadsStage % 1024 == 0 && kState % 1024 == 0 &&
                    kBefore % 1024 == 0 && kStage % 1024 == 0 && kScoreBytes % 1024 == 0,
                "where panels begin");

  // 16 x 16 elements of B or C from (row, column) on, for load_matrices, as mma.cuh's
  // down_first() and right_first().
  __device__ static __forceinline__ uint32_t down_first(uint32_t tile, int row, int column) {
    const int lane = threadIdx.x % kWarp;
    return tile + Wide::at(row + lane % 16, column + lane / 16 * 8);
  }
  __device__ static __forceinline__ uint32_t right_first(uint32_t tile, int row, int column) {
    const int lane = threadIdx.x % kWarp;
    return tile + Wide::at(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8);
  }
};

// By all threads: the rows that exist, zeros for the others.
template <class T, int kRows>
__device__ __forceinline__ void copy_rows(uint32_t to, const bf16* from, int64_t row_stride,
                                          int64_t rows) {
  constexpr int kStep = kThreads / T::kPieces;
  static_assert(kRows % kStep == 0 && kStep % T::kRowPeriod == 0,
                "threads share the pieces evenly");
  const int row = static_cast<int>(threadIdx.x) / T::kPieces,
            column = static_cast<int>(threadIdx.x) % T::kPieces * 8,
            left = static_cast<int>(rows) - row;
  const bf16* first = from + row * row_stride + column;
  const uint32_t to_first = to + T::at(row, column);
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i, first += kStep * row_stride)
    copy_async(to_first + T::at(i * kStep, 0), first, i * kStep < left);
}
__device__ __forceinline__ void copy_vector(uint32_t to, const float* from) {
  if (threadIdx.x < kC / 4) copy_async(to + threadIdx.x * 16, from + threadIdx.x * 4, true);
}

// This thread's copies, for wgmma too after the next barrier. That waits for all that the thread
// has stored in memory as well: so before the stores of a head, not after them.
__device__ __forceinline__ void next_is_here() {
  wait_copies<0>();
  publish_to_wgmma();
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float2 both(uint32_t x) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&x));
}

// What a block works on.
struct Place {
  int64_t chunk_at, b, t0, tokens, group, part, first_head;
  int heads;
  __device__ explicit Place(const SsdChunkParams& c) {
    const int64_t each = c.of.heads / c.groups, of_part = (each + c.parts - 1) / c.parts;
    chunk_at = blockIdx.x, b = chunk_at / c.chunks, t0 = chunk_at % c.chunks * kC;
    tokens = min(int64_t{kC}, c.of.seq_len - t0);
    group = blockIdx.y / c.parts, part = blockIdx.y % c.parts;
    first_head = group * each + part * of_part;
    heads = static_cast<int>(max(int64_t{0}, min(of_part, each - part * of_part)));
  }
  // Rows of the chunk, from column on.
  __device__ const bf16* rows(const SsdRows& of, int64_t column) const {
    return static_cast<const bf16*>(of.data) + b * of.batch_stride + t0 * of.time_stride + column;
  }
  // Of the chunk's [H, ...]: what belongs to a head.
  __device__ int64_t head(const SsdChunkParams& c, int n) const {
    return chunk_at * c.of.heads + first_head + n;
  }
};

// A warpgroup's 64 rows and a state [P, N], of whose rows each warp has 16, from rows_at on;
// first_row: of the warpgroup, in `wide`. sums += (weights rows) state; out = to_out (wide
// state^T); dot = rows . out. Weights of rows g, g + 8 of the fragment. kAtOnce columns of out at a
// time, the last of which stay: fewer need fewer registers.
template <int kN, int kAtOnce>
__device__ __forceinline__ void through_state(float (&sums)[kN / 8][4],
                                              float (&out)[kAtOnce / 8][4],
                                              uint32_t (&rows)[kAtOnce / 16][4], float (&dot)[2],
                                              uint32_t wide, int first_row, uint32_t rows_at,
                                              uint32_t state, const float (&to_out)[2],
                                              const float (&weights)[2]) {
  using S = Shape<kN>;
  constexpr int kSteps = kAtOnce / 16;
  dot[0] = dot[1] = 0;
#pragma unroll
  for (int first = 0; first < kP; first += kAtOnce) {
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < kN / 16; ++k)
      wgmma(out, S::Wide::columns(wide, first_row, 16 * k), S::State::columns(state, first, 16 * k),
            k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_arrived(out);
    uint32_t weighted[kSteps][4];
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      load_matrices(rows[k], rows_at + Rows::at(0, first + 16 * k));
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int down8 = e % 2;
        float* o = out[2 * k + e / 2] + 2 * down8;
        const float2 row = both(rows[k][e]);
        o[0] *= to_out[down8], o[1] *= to_out[down8];
        dot[down8] += row.x * o[0] + row.y * o[1];
        weighted[k][e] = pack(row.x * weights[down8], row.y * weights[down8]);
      }
    }
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
      wgmma_rows(sums, weighted[k], S::State::rows(state, first + 16 * k));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_arrived(sums), wgmma_used(weighted);
  }
}

// A warp's 16 x N sums into parts [parts, B, T, G, N], to what is there if kAdd; into `whole`
// [B, T, G, N] instead, if that is given.
template <int kN, bool kAdd>
__device__ __forceinline__ void store_sums(const float (&sums)[kN / 8][4], float* parts,
                                           bf16* whole, const SsdChunkParams& c, const Place& at,
                                           int row_block) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
#pragma unroll
  for (int down = 0; down < 2; ++down) {
    const int row = row_block * 16 + 8 * down + g;
    if (row >= at.tokens) continue;
    const int64_t token = at.b * c.of.seq_len + at.t0 + row,
                  to = (token * c.groups + at.group) * kN + 2 * t4;
    float* part = parts + at.part * c.of.batch * c.of.seq_len * c.groups * kN + to;
#pragma unroll
    for (int i = 0; i < kN / 8; ++i) {
      float2 sum = make_float2(sums[i][2 * down], sums[i][2 * down + 1]);
      if (kAdd) {
        const float2 more = *reinterpret_cast<const float2*>(part + 8 * i);
        sum.x += more.x, sum.y += more.y;
      }
      if (whole)
        *reinterpret_cast<uint32_t*>(whole + to + 8 * i) = pack(sum.x, sum.y);
      else
        *reinterpret_cast<float2*>(part + 8 * i) = sum;
    }
  }
}

__device__ __forceinline__ void load_documents(int* to, const SsdChunkParams& c, const Place& at) {
  if (threadIdx.x < kC) to[threadIdx.x] = c.document[at.chunk_at * kC + threadIdx.x];
}

// A block for each chunk, group and part; the kernels for a d_state of 64 and of 128, and their
// shared memory.
template <auto kOf64, uint32_t kBytesOf64, auto kOf128, uint32_t kBytesOf128>
void launch_chunks(const SsdChunkParams& c, void* stream) {
  if (c.of.batch == 0) return;
  allow_shared<kOf64>(kBytesOf64);
  allow_shared<kOf128>(kBytesOf128);
  const dim3 grid(static_cast<unsigned>(c.of.batch * c.chunks),
                  static_cast<unsigned>(c.groups * c.parts));
  const auto on = static_cast<cudaStream_t>(stream);
  if (c.d_state == 64)
    kOf64<<<grid, kThreads, kBytesOf64, on>>>(c);
  else
    kOf128<<<grid, kThreads, kBytesOf128, on>>>(c);
}

}  // namespace ceiling::gpu
