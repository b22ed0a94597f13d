// The backward of ssd within chunks, sm_90a. README.md has the maths and the design.
// Bound:  HBM: x, dy, dx once, dy and the states before and after each chunk once more.
// Floor:  0.53 ms for 32,768 tokens x 64 heads x 64, N 128 (1.6 GB at 3.0 TB/s).
// Layout: one block per (b, chunk, part of a group's heads) goes from head to head; each of its
//   eight warps owns 16 tokens. What all heads share, B, C and their products, stays on chip, and
//   so do the sums over heads: dB or dC, 16 x N of a warp, and its rows of the token x token sums.
//   reads_kernel finds what tokens read from the state before the chunk, sources_kernel the rest.
// Limits: P 64, N 64 or 128; one block of sources_kernel per SM, for its 250 registers.
#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/ssd/cuda.h"

namespace ceiling {
namespace {

using namespace gpu;

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
  using Wide = Tile<kN>;  // of B, C and states
  static constexpr uint32_t kWideBytes = Wide::at(kC, 0), kStateBytes = Wide::at(kP, 0);
  // reads_kernel: C, then stages of dy, state, decays.
  static constexpr uint32_t kReadsState = kRowBytes, kReadsDecay = kReadsState + kStateBytes,
                            kReadsStage = kReadsDecay + kVectorBytes,
                            kReadsBytes = kWideBytes + kStages * kReadsStage;
  // sources_kernel: B, products, then stages of x, dy, state, decays, steps.
  static constexpr uint32_t kDy = kRowBytes, kState = 2 * kRowBytes, kDecay = kState + kStateBytes,
                            kStep = kDecay + kVectorBytes, kStage = kStep + kVectorBytes,
                            kBytes = kWideBytes + kScoreBytes + kStages * kStage;
  static_assert(kWideBytes <= kStage && Pairs::at(kC, 0) <= kStage,
                "C, and sums over heads, take the place of a stage");
  static_assert(kBytes <= 226 * 1024 && 2 * kReadsBytes <= 226 * 1024, "shared memory of an SM");
};

// By all threads: the rows that exist, zeros for the others.
template <class T, int kRows>
__device__ __forceinline__ void copy_rows(uint32_t to, const bf16* from, int64_t row_stride,
                                          int64_t rows) {
  static_assert(kRows * T::kPieces % kThreads == 0, "threads share the pieces evenly");
#pragma unroll
  for (int i = 0; i < kRows * T::kPieces / kThreads; ++i) {
    const int piece = i * kThreads + static_cast<int>(threadIdx.x), row = piece / T::kPieces,
              column = piece % T::kPieces * 8;
    copy_async(to + T::at(row, column), from + row * row_stride + column, row < rows);
  }
}
__device__ __forceinline__ void copy_vector(uint32_t to, const float* from) {
  if (threadIdx.x < kC / 4) copy_async(to + threadIdx.x * 16, from + threadIdx.x * 4, true);
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

// A warp's 16 rows and a state [P, N]. sums += (weights rows) state; out = to_out (wide state^T);
// dot = rows . out. Weights of rows g, g + 8 of the fragment.
template <int kN>
__device__ __forceinline__ void through_state(float (&sums)[kN / 8][4], float (&out)[8][4],
                                              uint32_t (&rows)[4][4], float (&dot)[2],
                                              uint32_t wide_at, uint32_t rows_at, uint32_t state,
                                              const float (&to_out)[2], const float (&weights)[2]) {
  using Wide = Tile<kN>;
  const int lane = threadIdx.x % kWarp;
  const uint32_t right = state + Wide::right_first(lane), down = state + Wide::down_first(lane);
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) out[i][e] = 0;
#pragma unroll
  for (int k = 0; k < kN / 16; ++k) {
    uint32_t a[4];
    load_matrices(a, wide_at + Wide::at(0, 16 * k));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t s[4];
      load_matrices(s, right + Wide::at(16 * i, 16 * k));
      mma(out[2 * i], a, s[0], s[1]);
      mma(out[2 * i + 1], a, s[2], s[3]);
    }
  }
  dot[0] = dot[1] = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    load_matrices(rows[k], rows_at + Rows::at(0, 16 * k));
    uint32_t weighted[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int down8 = e % 2;
      float* o = out[2 * k + e / 2] + 2 * down8;
      const float2 row = both(rows[k][e]);
      o[0] *= to_out[down8], o[1] *= to_out[down8];
      dot[down8] += row.x * o[0] + row.y * o[1];
      weighted[e] = pack(row.x * weights[down8], row.y * weights[down8]);
    }
#pragma unroll
    for (int i = 0; i < kN / 16; ++i) {
      uint32_t s[4];
      load_matrices_transposed(s, down + Wide::at(16 * k, 16 * i));
      mma(sums[2 * i], weighted, s[0], s[1]);
      mma(sums[2 * i + 1], weighted, s[2], s[3]);
    }
  }
}

// A warp's 16 x N sums into [..., B, T, G, N].
template <int kN>
__device__ __forceinline__ void store_sums(const float (&sums)[kN / 8][4], float* parts,
                                           int64_t part, const SsdChunkParams& c, const Place& at,
                                           int row_block) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
#pragma unroll
  for (int down = 0; down < 2; ++down) {
    const int row = row_block * 16 + 8 * down + g;
    if (row >= at.tokens) continue;
    const int64_t token = (part * c.of.batch + at.b) * c.of.seq_len + at.t0 + row;
    float* to = parts + (token * c.groups + at.group) * kN + 2 * t4;
#pragma unroll
    for (int i = 0; i < kN / 8; ++i)
      *reinterpret_cast<float2*>(to + 8 * i) =
          make_float2(sums[i][2 * down], sums[i][2 * down + 1]);
  }
}

__device__ __forceinline__ void load_documents(int* to, const SsdChunkParams& c, const Place& at) {
  if (threadIdx.x < kC) to[threadIdx.x] = c.document[at.chunk_at * kC + threadIdx.x];
}

// dC through the states before the chunks, and what of dy . y that is.
template <int kN>
__global__ __launch_bounds__(kThreads,
                             2) void reads_kernel(const __grid_constant__ SsdChunkParams c) {
  using S = Shape<kN>;
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ int document[kC];
  const uint32_t base = shared_address(memory), stages = base + S::kWideBytes;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  const Place at(c);
  const auto fetch = [&](int n) {
    const uint32_t to = stages + n % kStages * S::kReadsStage;
    const int64_t head = at.head(c, n);
    copy_rows<Rows, kC>(to, at.rows(c.of.dy, (at.first_head + n) * kP), c.of.dy.time_stride,
                        at.tokens);
    copy_rows<Tile<kN>, kP>(to + S::kReadsState,
                            static_cast<const bf16*>(c.states) + head * kP * kN, kN, kP);
    copy_vector(to + S::kReadsDecay, c.decay + head * kC);
    commit_copies();
  };
  copy_rows<Tile<kN>, kC>(base, at.rows(c.c, at.group * kN), c.c.time_stride, at.tokens);
  load_documents(document, c, at);
  if (at.heads > 0) fetch(0);

  float sums[kN / 8][4] = {};
  const uint32_t wide_at = base + Tile<kN>::down_first(lane) + Tile<kN>::at(warp * 16, 0);
  for (int n = 0; n < at.heads; ++n) {
    wait_copies<0>();
    __syncthreads();  // this head is here, and all are done with the one before
    if (n + 1 < at.heads) fetch(n + 1);
    const uint32_t stage = n % kStages * S::kReadsStage;
    const float* decay =
        reinterpret_cast<const float*>(memory + S::kWideBytes + stage + S::kReadsDecay);
    float enter[2], dot[2], out[8][4];
    uint32_t rows[4][4];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const int row = warp * 16 + 8 * down + g;
      enter[down] = document[row] == 0 ? exp2_fast(decay[row]) : 0.0f;
    }
    through_state<kN>(sums, out, rows, dot, wide_at,
                      stages + stage + Rows::down_first(lane) + Rows::at(warp * 16, 0),
                      stages + stage + S::kReadsState, enter, enter);
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const float read = quad_sum(dot[down]);
      if (t4 == 0) c.of_state[at.head(c, n) * kC + warp * 16 + 8 * down + g] = read;
    }
  }
  store_sums<kN>(sums, c.dc_parts, at.part, c, at, warp);
}

// The sums over a warp's 16 rows of a 16 x 16 tile, given those over rows g and g + 8: a lane ends
// with one column's, 8 (lane / 16) + 2 (lane % 4) + lane / 8 % 2.
__device__ __forceinline__ float column_sum(const float (&column)[2][2]) {
  const int lane = threadIdx.x % kWarp;
  const bool half = lane & 16, right = lane & 8;
  float keep[2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
    keep[i] = (half ? column[1][i] : column[0][i]) +
              __shfl_xor_sync(0xffffffffu, half ? column[0][i] : column[1][i], 16);
  float sum =
      (right ? keep[1] : keep[0]) + __shfl_xor_sync(0xffffffffu, right ? keep[0] : keep[1], 8);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 4);
}

template <int kN>
__global__ __launch_bounds__(kThreads,
                             1) void sources_kernel(const __grid_constant__ SsdChunkParams c) {
  using S = Shape<kN>;
  using Wide = Tile<kN>;
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ int document[kC];
  __shared__ float pair_sums[2][kWarps][kC];  // of readers, by their sources' block
  constexpr uint32_t kStagesAt = S::kWideBytes + kScoreBytes;
  const uint32_t base = shared_address(memory), stages = base + kStagesAt;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  // The 16 sources of this warp, `block`: readers begin with them. Warps w and w + 4 share a
  // scheduler, and together have nine blocks of readers.
  const int block = warp < kWarps / 2 ? warp : kWarps + kWarps / 2 - 1 - warp;
  const Place at(c);
  const auto fetch = [&](int n) {
    const uint32_t to = stages + n % kStages * S::kStage;
    const int64_t head = at.head(c, n), column = (at.first_head + n) * kP;
    copy_rows<Rows, kC>(to, at.rows(c.of.x, column), c.of.x.time_stride, at.tokens);
    copy_rows<Rows, kC>(to + S::kDy, at.rows(c.of.dy, column), c.of.dy.time_stride, at.tokens);
    copy_rows<Wide, kP>(to + S::kState, static_cast<const bf16*>(c.state_grads) + head * kP * kN,
                        kN, kP);
    copy_vector(to + S::kDecay, c.decay + head * kC);
    copy_vector(to + S::kStep, c.step + head * kC);
    commit_copies();
  };
  const auto fetch_c = [&] {
    copy_rows<Wide, kC>(stages, at.rows(c.c, at.group * kN), c.c.time_stride, at.tokens);
    commit_copies();
  };
  copy_rows<Wide, kC>(base, at.rows(c.b, at.group * kN), c.b.time_stride, at.tokens);
  load_documents(document, c, at);
  fetch_c();
  wait_copies<0>();
  __syncthreads();

  const uint32_t b_at = base + Wide::down_first(lane) + Wide::at(block * 16, 0);
  // B C^T where a reader sees a source: readers j * 16 on, j counted from the diagonal.
  const int blocks = kWarps - block;
  float4* scores = reinterpret_cast<float4*>(memory + S::kWideBytes) +
                   (block * kWarps - block * (block - 1) / 2) * (kScoreTile / 16) + lane;
  const auto sees = [&](int j, int half, int e) {
    const int source = block * 16 + 8 * (e / 2) + g,
              reader = (block + j) * 16 + 8 * half + 2 * t4 + e % 2;
    return reader >= source && document[reader] == document[source];
  };
#pragma unroll 1
  for (int j = 0; j < blocks; ++j) {
    float score[2][4] = {};
    const uint32_t c_at = stages + Wide::right_first(lane) + (block + j) * Wide::at(16, 0);
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      uint32_t a[4], r[4];
      load_matrices(a, b_at + Wide::at(0, 16 * k));
      load_matrices(r, c_at + Wide::at(0, 16 * k));
      mma(score[0], a, r[0], r[1]);
      mma(score[1], a, r[2], r[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* s = score[half];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (!sees(j, half, e)) s[e] = 0;
      scores[(2 * j + half) * kWarp] = make_float4(s[0], s[1], s[2], s[3]);
    }
  }
  __syncthreads();  // all are done with C
  if (at.heads > 0) fetch(0);

  const auto add_pairs = [&](int n) {
    if (threadIdx.x >= kC) return;
    float sum = 0;
    for (int of = 0; of <= static_cast<int>(threadIdx.x) / 16; ++of)
      sum += pair_sums[n % 2][of][threadIdx.x];
    c.of_tokens[at.head(c, n) * kC + threadIdx.x] = sum;
  };

  float sums[kN / 8][4] = {};
  float pairs[kWarps][2][4] = {};  // sums over heads of Delta_s decay(s, l) dy_l . x_s
  const int row0 = block * 16 + g;
  const bool in_last[2] = {document[row0] == document[kC - 1],
                           document[row0 + 8] == document[kC - 1]};
  for (int n = 0; n < at.heads; ++n) {
    wait_copies<0>();
    __syncthreads();  // this head is here, and all are done with the one before
    if (n > 0) add_pairs(n - 1);
    if (n + 1 < at.heads) fetch(n + 1);
    const uint32_t stage_at = n % kStages * S::kStage, stage = stages + stage_at;
    unsigned char* here = memory + kStagesAt + stage_at;
    const float* decay = reinterpret_cast<const float*>(here + S::kDecay);
    const float* step = reinterpret_cast<const float*>(here + S::kStep);
    const float own_decay[2] = {decay[row0], decay[row0 + 8]},
                own_step[2] = {step[row0], step[row0 + 8]};
    float leave[2], weights[2], to_state[2], out[8][4];
    uint32_t x[4][4];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      leave[down] = in_last[down] ? exp2_fast(decay[kC - 1] - own_decay[down]) : 0.0f;
      weights[down] = leave[down] * own_step[down];
    }
    through_state<kN>(sums, out, x, to_state, b_at,
                      stage + Rows::down_first(lane) + Rows::at(block * 16, 0), stage + S::kState,
                      leave, weights);

    // Readers in the chunk, 16 at a time.
    float to_tokens[2] = {0, 0};
    const uint32_t dy_right = stage + S::kDy + Rows::right_first(lane) + block * Rows::at(16, 0),
                   dy_down = stage + S::kDy + Rows::down_first(lane) + block * Rows::at(16, 0);
#pragma unroll
    for (int j = 0; j < kWarps; ++j) {
      if (j >= blocks) break;
      float product[2][4] = {};  // x_s . dy_l
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        uint32_t r[4];
        load_matrices(r, dy_right + Rows::at(16 * j, 16 * k));
        mma(product[0], x[k], r[0], r[1]);
        mma(product[1], x[k], r[2], r[3]);
      }
      float column[2][2];
      uint32_t a[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float4 four = scores[(2 * j + half) * kWarp];
        const float score[4] = {four.x, four.y, four.z, four.w};
        const float2 of_readers =
            *reinterpret_cast<const float2*>(decay + (block + j) * 16 + 8 * half + 2 * t4);
        float weighted[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          // Where the source is later, nothing is seen; the power must be finite there.
          const float between =
              exp2_fast(fminf((e % 2 ? of_readers.y : of_readers.x) - own_decay[e / 2], 0.0f));
          pairs[j][half][e] += own_step[e / 2] * (product[half][e] * between);
          weighted[e] = score[e] * between;
          product[half][e] *= weighted[e];
          to_tokens[e / 2] += product[half][e];
        }
#pragma unroll
        for (int right = 0; right < 2; ++right)
          column[half][right] =
              own_step[0] * product[half][right] + own_step[1] * product[half][2 + right];
        a[2 * half] = pack(weighted[0], weighted[1]);
        a[2 * half + 1] = pack(weighted[2], weighted[3]);
      }
      const float sum = column_sum(column);
      if (!(lane & 4))
        pair_sums[n % 2][block][(block + j) * 16 + lane / 16 * 8 + 2 * t4 + lane / 8 % 2] = sum;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t r[4];
        load_matrices_transposed(r, dy_down + Rows::at(16 * j, 16 * i));
        mma(out[2 * i], a, r[0], r[1]);
        mma(out[2 * i + 1], a, r[2], r[3]);
      }
    }

    // dx = Delta out + D dy, by way of x's place, of which no other warp reads these rows.
    const float d = static_cast<const float*>(c.of.d)[at.first_head + n];
    float skip[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        const uint32_t place = Rows::at(block * 16, 8 * i) + (8 * down + g) * Rows::kPitch + 4 * t4;
        const float2 dy = both(*reinterpret_cast<const uint32_t*>(here + S::kDy + place)),
                     own = both(x[i / 2][2 * (i % 2) + down]);
        skip[down] += own.x * dy.x + own.y * dy.y;
        *reinterpret_cast<uint32_t*>(here + place) =
            pack(own_step[down] * out[i][2 * down] + d * dy.x,
                 own_step[down] * out[i][2 * down + 1] + d * dy.y);
      }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = block * 16 + 4 * i + lane / 8, column = lane % 8 * 8;
      if (row >= at.tokens) continue;
      const int64_t token = at.b * c.of.seq_len + at.t0 + row;
      *reinterpret_cast<uint4*>(static_cast<bf16*>(c.of.dx) +
                                (token * c.of.heads + at.first_head + n) * kP + column) =
          *reinterpret_cast<const uint4*>(here + row * Rows::kPitch + 2 * column);
    }
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const float tokens = quad_sum(to_tokens[down]), state = quad_sum(to_state[down]),
                  skipped = quad_sum(skip[down]);
      const int64_t to = at.head(c, n) * kC + row0 + 8 * down;
      if (t4 == 0) c.to_tokens[to] = tokens, c.to_state[to] = state, c.through_skip[to] = skipped;
    }
  }
  __syncthreads();  // all are done with all heads
  if (at.heads > 0) add_pairs(at.heads - 1);

  // Once for all heads: dB += pairs C, dC += pairs^T B.
  fetch_c();
  unsigned char* shared_pairs = memory + kStagesAt + S::kStage;
  uint32_t packed[kWarps][4];
#pragma unroll
  for (int j = 0; j < kWarps; ++j) {
    if (j >= blocks) break;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int half = e / 2, down = e % 2;
      packed[j][e] = pack(sees(j, half, 2 * down) ? pairs[j][half][2 * down] : 0.0f,
                          sees(j, half, 2 * down + 1) ? pairs[j][half][2 * down + 1] : 0.0f);
      *reinterpret_cast<uint32_t*>(shared_pairs + (row0 + 8 * down) * Pairs::kPitch +
                                   ((block + j) * 16 + 8 * half) * 2 + 4 * t4) = packed[j][e];
    }
  }
  wait_copies<0>();
  __syncthreads();
  const uint32_t c_down = stages + Wide::down_first(lane) + block * Wide::at(16, 0);
#pragma unroll
  for (int j = 0; j < kWarps; ++j) {
    if (j >= blocks) break;
#pragma unroll
    for (int i = 0; i < kN / 16; ++i) {
      uint32_t r[4];
      load_matrices_transposed(r, c_down + Wide::at(16 * j, 16 * i));
      mma(sums[2 * i], packed[j], r[0], r[1]);
      mma(sums[2 * i + 1], packed[j], r[2], r[3]);
    }
  }
  store_sums<kN>(sums, c.db_parts, at.part, c, at, block);
#pragma unroll
  for (int i = 0; i < kN / 8; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[i][e] = 0;
  const uint32_t pairs_at =
      stages + S::kStage + Pairs::right_first(lane) + block * Pairs::at(0, 16);
#pragma unroll 1
  for (int k = 0; k <= block; ++k) {
    uint32_t a[4];
    load_matrices_transposed(a, pairs_at + k * Pairs::at(16, 0));
    const uint32_t b_down = base + Wide::down_first(lane) + k * Wide::at(16, 0);
#pragma unroll
    for (int i = 0; i < kN / 16; ++i) {
      uint32_t r[4];
      load_matrices_transposed(r, b_down + Wide::at(0, 16 * i));
      mma(sums[2 * i], a, r[0], r[1]);
      mma(sums[2 * i + 1], a, r[2], r[3]);
    }
  }
  store_sums<kN>(sums, c.dc_parts, c.parts + at.part, c, at, block);
}

template <int kN>
void launch_for(const SsdChunkParams& c, cudaStream_t stream) {
  using S = Shape<kN>;
  static const bool prepared = [] {
    const auto allow = [](auto kernel, uint32_t bytes) {
      return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)) == cudaSuccess;
    };
    return allow(reads_kernel<kN>, S::kReadsBytes) && allow(sources_kernel<kN>, S::kBytes);
  }();
  (void)prepared;  // a failure shows at the launch
  const dim3 grid(static_cast<unsigned>(c.of.batch * c.chunks),
                  static_cast<unsigned>(c.groups * c.parts));
  reads_kernel<kN><<<grid, kThreads, S::kReadsBytes, stream>>>(c);
  sources_kernel<kN><<<grid, kThreads, S::kBytes, stream>>>(c);
}

void launch(const SsdChunkParams& c, void* stream) {
  if (c.of.batch == 0) return;
  if (c.d_state == 64)
    launch_for<64>(c, static_cast<cudaStream_t>(stream));
  else
    launch_for<128>(c, static_cast<cudaStream_t>(stream));
}

[[maybe_unused]] const bool registered = [] {
  ssd_chunks_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
