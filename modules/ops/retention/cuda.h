// Sweeps (sweep.h) on a GPU, without torch: kernel_cuda.cu takes a chunk at a time on tensor cores,
// recurrent_cuda.cu a token at a time.
#pragma once
#include <cstdint>

#include "modules/ops/cuda_kernel.h"

namespace ceiling {

// Elements between neighbours of a [B, T, H, *] tensor; neighbours along the last dimension touch.
struct GpuSweepStrides {
  int64_t batch, time, head;
};

constexpr int64_t kMaxSweepHeads = 64;  // whose fixed decays travel with the launch
constexpr int64_t kMaxSweepWidth = 512;
constexpr int64_t kSweepCheckpoint = 128;  // tokens
constexpr int kSweepUnit = 64;             // tokens, of which segments of time are made

// The kernels of sweeps in chunks: kernel_cuda.cu; wide_cuda.cu, one head of a block or two.
enum class SweepKernel { kNarrow, kWide, kPairs };

struct GpuSweepParams {
  int64_t batch, seq_len, heads;
  int64_t m_dim, n_dim;  // of query and key; of value and out
  bool backward;         // in time
  bool bf16;             // of query, key and value; else float
  bool wide_out;         // out is float; else of their type
  const void *query, *key, *value;
  GpuSweepStrides query_strides, key_strides, value_strides;
  // ln of the decays, [B, T, H] contiguous; null: fixed ones, below
  const float* log_decay;
  float log_decay_of_head[kMaxSweepHeads];
  const unsigned char* start;  // [B, T] or null
  const float* state_in;       // [B, H, M, N] or null: zeros
  float* state_out;            // [B, H, M, N]
  void* out;                   // [B, T, H, N], contiguous token by token
  // Chunk kernel only, all that follow.
  GpuSweepStrides out_strides;
  const float* value_weight;  // [B, T, H] or null: value enters times it
  const float* skip;          // [H] or null: out gains skip times value, without its weight
  // [B, ceil(T / kSweepCheckpoint), H, N, M] bfloat16, or null: the state that enters each piece of
  // kSweepCheckpoint tokens (backward in time: from its end) instead of out, of which and query
  // there is none then. M at most 128, N at most 64.
  void* checkpoints;
  // Time is cut into `segments` that run side by side, none of them empty. For more than one, room
  // for the states that enter them, [segments, B, H, M, N]; for those that a first pass finds, of
  // so many parts of each segment but the last, [(segments - 1) * parts_of_segment, B, H, M, N];
  // and for what the parts let pass, [(segments - 1) * parts_of_segment, B, H].
  SweepKernel kernel;
  int64_t slice;  // of sweep_tiling()
  int64_t segments;
  float* segment_states;
  int parts_of_segment;
  float *part_states, *part_across;
  // segment_states holds the states that enter the segments already, which leaves out the first
  // pass: of a sweep whose states are these, or their transposes ([segments, B, H, N, M] then).
  bool entering_known, entering_transposed;
  // With one segment and more than one of these: segment_states is room for the states that would
  // enter so many segments. Only where wide_cuda.cu makes out.
  int64_t recorded_segments;
  // wide_cuda.cu, with one segment, one launch and out in the inputs' type: so many blocks, fewer
  // than there are slices of heads, share all visits evenly. 0: a block for each. Then `handed`
  // [blocks, kHandingWarps] is zero, and handed_states [blocks, M rounded up to 128 or 256, slice]
  // is room.
  int64_t dealt_blocks;
  unsigned* handed;
  float* handed_states;
};
constexpr int kHandingWarps = 8;

// What decides how a sweep in chunks goes.
struct SweepShape {
  int64_t heads, m_dim, n_dim;  // heads of all rows
  bool skip = false;            // out gains a value of its own
  bool pairs = false;           // heads 2 i and 2 i + 1 share query and key
  SweepKernel kernel() const {
    if (m_dim > 64 && n_dim > 64 && !skip) return SweepKernel::kWide;
    return pairs && m_dim > 64 && m_dim <= 128 && n_dim <= 64 ? SweepKernel::kPairs
                                                              : SweepKernel::kNarrow;
  }
};

// How the chunk kernels divide a head: value columns of a block, launches for one part of the
// state's rows each, blocks that an H100 runs at a time, and heads of a block.
struct SweepTiling {
  int64_t slice, launches, resident_blocks, heads = 1;
};
inline SweepTiling sweep_tiling(const SweepShape& of) {
  constexpr int64_t kSms = 132;
  const SweepKernel kernel = of.kernel();
  if (kernel == SweepKernel::kWide) return {128, of.m_dim > 256 ? 2 : 1, kSms};
  if (kernel == SweepKernel::kPairs) return {64, 1, kSms, 2};
  if (of.m_dim <= 64) return {64, 1, 4 * kSms};
  if (of.m_dim <= 128)
    return of.n_dim <= 64 ? SweepTiling{64, 1, 4 * kSms} : SweepTiling{128, 1, 2 * kSms};
  // Wide slices repeat the scores less often, but few of their blocks fit on the device: where
  // those would need a second, mostly empty round and narrow ones only one, narrow slices are
  // faster.
  const auto blocks = [&](int64_t slice) { return of.heads * ((of.n_dim + slice - 1) / slice); };
  const int64_t wide = of.m_dim <= 256 ? 128 : 64;
  const bool one_round = blocks(wide) > kSms && blocks(wide / 2) <= 3 * kSms;
  return one_round ? SweepTiling{wide / 2, 1, 3 * kSms} : SweepTiling{wide, 1, kSms};
}

// README.md, eq. 4, and the gradients of q and k that several heads share (kernels.h says more).
struct GpuDecayGradientParams {
  int64_t batch, seq_len, heads, width;
  bool bf16;  // of q, k, dq_sum and dk_sum; else float
  const void *q, *k;
  GpuSweepStrides q_strides, k_strides;
  const float *dq, *dk;        // [B, T, H, K]
  int64_t group;               // heads that share q and k
  void *dq_sum, *dk_sum;       // [B, T, H / group, K]; null for groups of one
  const double* end;           // [B, H] or null
  bool from_zero;              // no state came in
  const unsigned char* start;  // [B, T] or null
  float* terms;                // [B, H, T]: room
  double* out;                 // [B, T, H]
};
inline CudaKernel<GpuDecayGradientParams> decay_gradient_kernel_cuda;

inline CudaKernel<GpuSweepParams> sweep_chunk_cuda;  // bfloat16; widths multiples of 8, at most 512
inline CudaKernel<GpuSweepParams> sweep_recurrent_cuda;  // any

}  // namespace ceiling
