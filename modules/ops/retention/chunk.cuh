// What the chunk kernels share: the walk through time, the weights of a chunk's tokens, the copies
// of its rows.
#pragma once
#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/retention/cuda.h"

namespace ceiling::gpu {

// What one walk through time leaves behind.
enum class Pass { kOutput, kSegmentStates, kCheckpoints };

// The chunks of kC tokens that a block's segment of time visits one after another. Segments begin
// at multiples of kSweepUnit tokens, whatever kC is and whichever way time goes.
template <int kC, bool kBackward>
struct Walk {
  int visits, first_chunk;

  __device__ Walk(const GpuSweepParams& p, int parts) {
    constexpr int kChunks = kSweepUnit / kC;  // of a unit
    const int chunks = static_cast<int>((p.seq_len + kC - 1) / kC),
              units = (chunks + kChunks - 1) / kChunks, segments = static_cast<int>(p.segments);
    const int each = (units + segments - 1) / segments;
    const int segment = static_cast<int>(blockIdx.z) / parts * each,
              part = static_cast<int>(blockIdx.z) % parts, of_part = (each + parts - 1) / parts;
    const int limit = min(segment + each, units), begin = min(segment + part * of_part, limit),
              end = min(begin + of_part, limit);
    const int low = kBackward ? units - end : begin, high = kBackward ? units - begin : end;
    const int last_chunk = min(high * kChunks, chunks) - 1;
    visits = last_chunk + 1 - min(low * kChunks, chunks);
    first_chunk = kBackward ? last_chunk : low * kChunks;
  }
  // Of the visits only those from `begin` to `end`, counted from `first` to `visits` now.
  __device__ void keep(int begin, int end, int first) {
    visits = first + end - begin;
    first_chunk += kBackward ? first - begin : begin - first;
  }
  // The chunk's first token.
  __device__ int64_t token_of(int visit) const {
    return int64_t{kBackward ? first_chunk - visit : first_chunk + visit} * kC;
  }
};

// The states that enter the segments, from what each segment adds (kSegmentStates): in
// kernel_cuda.cu.
void enter_segments(const GpuSweepParams& p, cudaStream_t stream);

// wide_cuda.cu, a sweep of wgmma products; where wide_sweep_supports().
void wide_sweep(const GpuSweepParams& p, cudaStream_t stream);

// Weights of one chunk's tokens.
template <int kC>
struct Weights {
  float sum[kC];     // log2 of the decays from the chunk's begin to the token, its own included
  float source[kC];  // the same less (backward, plus) log2 of the value's weight
  float enter[kC];   // what the entering state weighs in out
  float leave[kC];   // what the token weighs in the leaving state
  int reach[kC];     // the first token of the chunk (backward, the last) of the token's document
  float across;      // what the entering state weighs in the leaving one
  int starts;        // whether documents start in the chunk
};

// What a lane reads for them, tokens 32 apart: asked for a chunk early, so that nobody waits for
// memory.
template <int kC>
struct TokenInputs {
  static constexpr int kEach = kC / kWarp;
  float log_decay[kEach], weight[kEach];
  bool starts[kEach];

  TokenInputs() = default;
  __device__ TokenInputs(const GpuSweepParams& p, int64_t b, int64_t h, int64_t t0) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t t = t0 + i * kWarp + threadIdx.x % kWarp, token = b * p.seq_len + t;
      const bool present = t >= 0 && t < p.seq_len;
      log_decay[i] = 0, weight[i] = 1, starts[i] = false;
      if (!present) continue;
      log_decay[i] = p.log_decay ? p.log_decay[token * p.heads + h] : p.log_decay_of_head[h];
      if (p.value_weight) weight[i] = p.value_weight[token * p.heads + h];
      if (p.start) starts[i] = p.start[token] != 0;
    }
  }
};

// By one warp; unless kOfOut, only those of the leaving state. Tokens past the end have decay 1: a
// state passes them unchanged.
template <int kC, bool kBackward, bool kOfOut = true>
__device__ void find_weights(Weights<kC>& w, const GpuSweepParams& p,
                             const TokenInputs<kC>& inputs) {
  static_assert(kC <= 64, "a bit for each token");
  constexpr int kEach = kC / kWarp;
  const int lane = threadIdx.x % kWarp;
  float sum[kEach];
  uint64_t starts = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    sum[i] = inputs.log_decay[i];
    if (p.start) starts |= uint64_t{__ballot_sync(0xffffffffu, inputs.starts[i])} << (i * kWarp);
  }
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2)
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float other = __shfl_up_sync(0xffffffffu, sum[i], offset);
      if (lane >= offset) sum[i] += other;
    }
  float total = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float before = total;
    total += __shfl_sync(0xffffffffu, sum[i], kWarp - 1);
    sum[i] = kLog2E * (sum[i] + before);
  }
  total *= kLog2E;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = i * kWarp + lane;
    float from_begin = exp2_of(sum[i]), to_end = exp2_of(total - sum[i]), source = sum[i];
    int reach = kBackward ? kC - 1 : 0;
    if (starts != 0) {
      // Bits of the tokens up to this one, and of those after it.
      const uint64_t up_to = starts << (63 - at) >> (63 - at), after = starts >> at >> 1;
      if (up_to != 0) from_begin = 0;
      if (after != 0) to_end = 0;
      if (kBackward && after != 0) reach = at + __ffsll(static_cast<int64_t>(after)) - 1;
      if (!kBackward && up_to != 0) reach = 63 - __clzll(static_cast<int64_t>(up_to));
    }
    float leave = kBackward ? from_begin : to_end;
    if (p.value_weight) {
      const float log2_weight = __log2f(inputs.weight[i]);
      source += kBackward ? log2_weight : -log2_weight;
      leave *= inputs.weight[i];
    }
    w.leave[at] = leave;
    if constexpr (kOfOut) {
      w.sum[at] = sum[i], w.source[at] = source, w.reach[at] = reach;
      w.enter[at] = kBackward ? to_end : from_begin;
    }
  }
  if (lane == 0) w.across = starts == 0 ? exp2_of(total) : 0.0f, w.starts = starts != 0;
}

// A thread's share of the copies of tiles T of kC rows: one column of pieces, every kStep-th row.
template <class T, int kC, int kThreads>
class TileCopy {
 public:
  __device__ TileCopy(const bf16* first, int64_t row_stride)
      : row_(static_cast<int>(threadIdx.x) % kThreads / T::kPieces),
        column_(static_cast<int>(threadIdx.x) % T::kPieces * 8),
        row_stride_(row_stride),
        from_(first + row_ * row_stride + column_) {
#pragma unroll
    for (int i = 0; i < kPhases; ++i) to_[i] = T::at(row_ + i * kStep, column_);
  }
  // Tokens from t0 on, of which `tokens` exist, and of their elements those from `column` on, of
  // which `columns` exist; zeros for the others.
  __device__ __forceinline__ void operator()(uint32_t tile, int64_t t0, int64_t tokens,
                                             int64_t column, int64_t columns) const {
    if (kStep > kC && row_ >= kC) return;
    const bf16* from = from_ + t0 * row_stride_ + column;
    // Of this thread's rows, which are counted from its first, so many exist.
    const int rows = column_ < columns ? static_cast<int>(min(tokens, int64_t{kC})) - row_ : 0;
#pragma unroll
    for (int i = 0; i < (kC + kStep - 1) / kStep; ++i, from += kStep * row_stride_)
      copy_async(tile + to_[i % kPhases] + T::at(i / kPhases * kPhases * kStep, 0), from,
                 i * kStep < rows);
  }

 private:
  static constexpr int kStep = kThreads / T::kPieces,
                       kPhases = kStep < T::kRowPeriod ? T::kRowPeriod / kStep : 1;
  static_assert(kThreads % T::kPieces == 0 && kPhases * kStep % T::kRowPeriod == 0 &&
                    (kC % kStep == 0 || kStep > kC),
                "threads share the pieces evenly");
  int row_, column_;
  int64_t row_stride_;
  const bf16* from_;
  uint32_t to_[kPhases];
};

// A warp's part of a head's state, in the layout of sums of products that hold it transposed: block
// i are the rows (of M) first_row + 8 i + 2 (lane % 4) and the next, of the columns (of N)
// first_column + lane / 4 and that + 8. Of the rows from first_row on `rows` exist.
template <int kBlocks>
class StatePart {
 public:
  __device__ StatePart(const GpuSweepParams& p, int64_t bh, int64_t first_row, int64_t rows,
                       int64_t first_column)
      : m_dim_(p.m_dim),
        n_dim_(p.n_dim),
        head_(bh * m_dim_ * n_dim_),
        segment_(p.batch * p.heads * m_dim_ * n_dim_),
        row_(first_row + threadIdx.x % 4 * 2),
        rows_(rows),
        column_(first_column + threadIdx.x % kWarp / 4) {}

  // Of states [segments, B, H, M, N], or transposed [.., N, M]; null: zeros.
  __device__ void load(float (&state)[kBlocks][4], const float* states, int64_t segment,
                       bool transposed) const {
    visit(states, segment, transposed, [&](int i, int c, const float* at, bool present) {
      state[i][c] = states && present ? *at : 0.0f;
    });
  }
  __device__ void store(const float (&state)[kBlocks][4], float* states, int64_t segment) const {
    visit(states, segment, false, [&](int i, int c, float* at, bool present) {
      if (present) *at = state[i][c];
    });
  }

 private:
  // There are multiples of eight rows and columns, so that a block's are there or not together.
  template <class T, class Body>
  __device__ __forceinline__ void visit(T* states, int64_t segment, bool transposed,
                                        const Body& body) const {
    const int64_t down = transposed ? 1 : n_dim_, right = transposed ? m_dim_ : 1;
    T* at = states + segment * segment_ + head_ + row_ * down + column_ * right;
    const bool near = column_ < n_dim_, far = column_ + 8 < n_dim_;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i, at += 8 * down) {
      const bool present = 8 * i < rows_;
#pragma unroll
      for (int c = 0; c < 4; ++c)
        body(i, c, at + (c & 1) * down + (c & 2) * 4 * right, present && (c & 2 ? far : near));
    }
  }

  int64_t m_dim_, n_dim_, head_, segment_, row_, rows_, column_;
};

// By one warp, if a piece of kSweepCheckpoint tokens begins with the chunk from t0 on: its part of
// the state, rounded and transposed, 16 columns from first_column on. `room`: 16 rows of T.
template <class T, int kC, bool kBackward, int kBlocks>
__device__ __forceinline__ void store_checkpoint(const float (&state)[kBlocks][4],
                                                 unsigned char* room, const GpuSweepParams& p,
                                                 int64_t b, int64_t h, int64_t t0,
                                                 int64_t first_column) {
  static_assert(kSweepCheckpoint % kC == 0, "pieces begin with a chunk");
  const int64_t next = t0 + kC;
  if (kBackward ? next % kSweepCheckpoint != 0 && next < p.seq_len : t0 % kSweepCheckpoint != 0)
    return;
  const int lane = threadIdx.x % kWarp;
  __syncwarp();  // all have read the one before
#pragma unroll
  for (int i = 0; i < kBlocks; ++i)
#pragma unroll
    for (int down = 0; down < 2; ++down)
      *reinterpret_cast<uint32_t*>(room + T::at(lane / 4 + 8 * down, 8 * i) + lane % 4 * 4) =
          pack(state[i][2 * down], state[i][2 * down + 1]);
  __syncwarp();
  const int64_t checkpoints = (p.seq_len + kSweepCheckpoint - 1) / kSweepCheckpoint,
                state_at = (b * checkpoints + t0 / kSweepCheckpoint) * p.heads + h;
  bf16* to = static_cast<bf16*>(p.checkpoints) + (state_at * p.n_dim + first_column) * p.m_dim;
#pragma unroll
  for (int i = 0; i < 16 * T::kPieces / kWarp; ++i) {
    const int piece = i * kWarp + lane, row = piece / T::kPieces, m = piece % T::kPieces * 8;
    store_if(first_column + row < p.n_dim && m < p.m_dim, to + row * p.m_dim + m,
             *reinterpret_cast<const uint4*>(room + T::at(row, m)));
  }
}

}  // namespace ceiling::gpu
