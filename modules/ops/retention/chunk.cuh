// For kernel_cuda.cu: the weights of a chunk's tokens, and the copies of its rows.
#pragma once
#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/retention/cuda.h"

namespace ceiling::gpu {

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

// What a lane reads for them: asked for a chunk early, so that nobody waits for memory.
template <int kC>
struct TokenInputs {
  static constexpr int kEach = kC / kWarp;
  float log_decay[kEach], weight[kEach];
  int starts[kEach];

  __device__ TokenInputs(const GpuSweepParams& p, int64_t b, int64_t h, int64_t t0) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t t = t0 + threadIdx.x % kWarp * kEach + i, token = b * p.seq_len + t;
      const bool present = t >= 0 && t < p.seq_len;
      log_decay[i] = 0, weight[i] = 1, starts[i] = 0;
      if (!present) continue;
      log_decay[i] = p.log_decay ? p.log_decay[token * p.heads + h] : p.log_decay_of_head[h];
      if (p.value_weight) weight[i] = p.value_weight[token * p.heads + h];
      if (p.start) starts[i] = p.start[token];
    }
  }
};

// By one warp. Tokens past the end have decay 1: a state passes them unchanged.
template <int kC, bool kBackward>
__device__ void find_weights(Weights<kC>& w, const GpuSweepParams& p,
                             const TokenInputs<kC>& inputs) {
  constexpr int kEach = kC / kWarp;
  const int lane = threadIdx.x % kWarp;
  float sum[kEach], own = 0;
  int document[kEach], own_starts = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    sum[i] = own += inputs.log_decay[i];
    document[i] = own_starts += inputs.starts[i];
  }
  float up_to = own;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const float other = __shfl_up_sync(0xffffffffu, up_to, offset);
    if (lane >= offset) up_to += other;
  }
  const float total = kLog2E * __shfl_sync(0xffffffffu, up_to, kWarp - 1);
  int starts = 0;
  if (p.start) {
    int starts_up_to = own_starts;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, starts_up_to, offset);
      if (lane >= offset) starts_up_to += other;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) document[i] += starts_up_to - own_starts;
    starts = __shfl_sync(0xffffffffu, starts_up_to, kWarp - 1);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) sum[i] = kLog2E * (sum[i] + up_to - own);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = lane * kEach + i;
    const float from_begin = document[i] == 0 ? exp2_of(sum[i]) : 0.0f;
    const float to_end = document[i] == starts ? exp2_of(total - sum[i]) : 0.0f;
    w.sum[at] = w.source[at] = sum[i], w.document[at] = document[i];
    w.enter[at] = kBackward ? to_end : from_begin;
    w.leave[at] = kBackward ? from_begin : to_end;
    if (p.value_weight) {
      const float log2_weight = __log2f(inputs.weight[i]);
      w.source[at] += kBackward ? log2_weight : -log2_weight;
      w.leave[at] *= inputs.weight[i];
    }
  }
  if (lane == 0) w.across = starts == 0 ? exp2_of(total) : 0.0f, w.starts = starts;
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
