// For kernel_cuda.cu: the weights of a chunk's tokens, and the copies of its rows.
#pragma once
#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/retention/cuda.h"

namespace ceiling::gpu {

constexpr float kLog2E = 1.44269504f;

// Weights of one chunk's tokens.
template <int kC>
struct Weights {
  float sum[kC];     // log2 of the decays from the chunk's begin to the token, its own included
  float source[kC];  // the same less (backward, plus) log2 of the value's weight
  float enter[kC];   // what the entering state weighs in out
  float leave[kC];   // what the token weighs in the leaving state
  int document[kC];  // documents that have started since the chunk's begin
  float across;      // what the entering state weighs in the leaving one
  int starts;        // of documents in the chunk
};

// By one warp. Tokens past the end have decay 1: a state passes them unchanged.
template <int kC, bool kBackward>
__device__ void find_weights(Weights<kC>& w, const GpuSweepParams& p, int64_t b, int64_t h,
                             int64_t t0) {
  constexpr int kEach = kC / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int tokens = static_cast<int>(min(int64_t{kC}, p.seq_len - t0));
  float sum[kEach], total;
  int document[kEach], starts = 0;
  if (p.log_decay || p.start) {
    float own = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = lane * kEach + i;
      if (at < tokens) {
        const int64_t token = b * p.seq_len + t0 + at;
        own += p.log_decay ? p.log_decay[token * p.heads + h] : p.log_decay_of_head[h];
        starts += p.start ? p.start[token] : 0;
      }
      sum[i] = own, document[i] = starts;
    }
    float up_to = own;
    int starts_up_to = starts;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, up_to, offset);
      const int other_starts = __shfl_up_sync(0xffffffffu, starts_up_to, offset);
      if (lane >= offset) up_to += other, starts_up_to += other_starts;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      sum[i] = kLog2E * (sum[i] + up_to - own);
      document[i] += starts_up_to - starts;
    }
    total = kLog2E * __shfl_sync(0xffffffffu, up_to, kWarp - 1);
    starts = __shfl_sync(0xffffffffu, starts_up_to, kWarp - 1);
  } else {
    const float decay = kLog2E * p.log_decay_of_head[h];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      sum[i] = decay * min(lane * kEach + i + 1, tokens), document[i] = 0;
    total = decay * tokens;
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = lane * kEach + i;
    const float from_begin = document[i] == 0 ? exp2_fast(sum[i]) : 0.0f;
    const float to_end = document[i] == starts ? exp2_fast(total - sum[i]) : 0.0f;
    w.sum[at] = w.source[at] = sum[i], w.document[at] = document[i];
    w.enter[at] = kBackward ? to_end : from_begin;
    w.leave[at] = kBackward ? from_begin : to_end;
    if (p.value_weight && at < tokens) {
      const float weight = p.value_weight[(b * p.seq_len + t0 + at) * p.heads + h];
      w.source[at] += kBackward ? log2f(weight) : -log2f(weight);
      w.leave[at] *= weight;
    }
  }
  if (lane == 0) w.across = starts == 0 ? exp2_fast(total) : 0.0f, w.starts = starts;
}

// A thread's share of the copies of tiles [kC, kColumns]: one column of pieces, every kStep-th row.
template <int kColumns, int kC, int kThreads>
class TileCopy {
 public:
  __device__ TileCopy(const bf16* first, int64_t row_stride, int64_t columns)
      : row_(threadIdx.x / T::kPieces),
        has_columns_(static_cast<int>(threadIdx.x) % T::kPieces * 8 < columns),
        row_stride_(row_stride),
        from_(first + row_ * row_stride + threadIdx.x % T::kPieces * 8),
        to_(T::at(row_, threadIdx.x % T::kPieces * 8)) {}
  // Tokens from t0 on, of which `tokens` exist; zeros for the others.
  __device__ __forceinline__ void operator()(uint32_t tile, int64_t t0, int64_t tokens) const {
    if (kStep > kC && row_ >= kC) return;
    const bf16* from = from_ + t0 * row_stride_;
#pragma unroll
    for (int i = 0; i < (kC + kStep - 1) / kStep; ++i, from += kStep * row_stride_)
      copy_async(tile + to_ + T::at(i * kStep, 0), from, has_columns_ && row_ + i * kStep < tokens);
  }

 private:
  using T = Tile<kColumns>;
  static constexpr int kStep = kThreads / T::kPieces;
  static_assert(kThreads % T::kPieces == 0 && (kC % kStep == 0 || kStep > kC),
                "threads share the pieces evenly");
  int row_;
  bool has_columns_;
  int64_t row_stride_;
  const bf16* from_;
  uint32_t to_;
};

}  // namespace ceiling::gpu
