#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/ssd/kernels.h"

namespace ceiling {

// kFloat and kBFloat16, any width.
inline CudaKernel<SsdParams> ssd_prepare_cuda, ssd_skip_cuda, ssd_backward_cuda;

// The way in chunks: bfloat16, what the chunk kernel of retention takes.
constexpr int64_t kSsdChunk = 128;  // tokens: one checkpoint of the sweeps' states each

struct SsdChunkParams {
  // x, dt, dy and dx in bfloat16, rows of whole 16-byte pieces; v, o, y, dv and d_log_decay unused.
  SsdParams of;
  int64_t chunks;              // ceil(T / kSsdChunk), C below
  const unsigned char* start;  // [B, T] or null
  float* delta;                // [B, T, H]; log_decay is made beside it
  // The rest for the backward only; null forward.
  int64_t groups, d_state;  // G, N
  SsdRows b, c;             // G N wide, as x
  int* document;            // [B, C, kSsdChunk]: documents started since the chunk's begin
  // [B, C, H, kSsdChunk]: log2 of the decays from the chunk's begin to the token, its own
  // included; Delta. Past the end nothing decays and Delta is 0.
  float *decay, *step;
  // [B, C, H, P, N] bfloat16: states before the chunk, gradients of the state after it.
  const void *states, *state_grads;
  // A group's heads are cut into `parts` that run side by side, each with sums of its own.
  int64_t parts;
  // [parts, B, T, G, N]. Of one part, dc and db [B, T, G, N] in bfloat16 are the result, which are
  // null otherwise.
  float *dc_parts, *db_parts;
  void *dc, *db;
  // [B, C, H, kSsdChunk], README.md: what a token reads from the state before the chunk, from
  // tokens of the chunk; what is read of a token's x by tokens of the chunk, by the state after it
  // (both without Delta); x . dy.
  float *of_state, *of_tokens, *to_tokens, *to_state, *through_skip;
  float* passing;  // [B, C, H]: <state before, gradient of the state after> times the decay between
  bool from_zero;  // no state came in
};
// In this order; P 64 and N 64 or 128 for the two in the middle.
inline CudaKernel<SsdChunkParams> ssd_steps_cuda,  // delta, of.log_decay, decay, step, document
    ssd_reads_cuda,                                // of_state, its share of dc_parts
    ssd_sources_cuda,  // of.dx, db_parts, all of dc_parts, of_tokens to passing
    ssd_close_cuda;    // of.ddt and of.partial, [B C, 3, H]

}  // namespace ceiling
