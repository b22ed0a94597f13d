#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct CausalConv1dParams {
  CpuType type;
  bool silu;
  int64_t batch, seq_len, channels, width;  // B, T, C, W
  const void* x;                            // [B, T, C], unit stride over channels
  int64_t x_batch_stride, x_time_stride;    // elements
  const void* state;                        // [B, W - 1, C] or null: zeros
  const void* zeros;                        // [C] of the type of x
  const uint8_t* start;                     // [B, T] or null
  const void* weight;                       // [W, C], float (double for kDouble)
  const void* bias;                         // [C], float (double)
  void* y;                                  // [B, T, C]
  void* state_out;                          // [B, W - 1, C]
  // Backward.
  const void* dy;          // [B, T, C]
  const void* dstate_out;  // [B, W - 1, C] or null
  void* dx;                // [B, T, C]
  void* dstate;            // [B, W - 1, C] or null
  void* partial;           // [blocks, W + 1, C], float (double): gradients of weight, then of bias
  void* workspace;         // of this call: (W + 1) C float (double)
};

constexpr int64_t kConvMaxWidth = 4;
// Tokens of a task, whose weight gradients are added up together; fixed, so the result does not
// depend on the number of threads.
constexpr int64_t kConvBlock = 64;
inline int64_t conv_blocks(int64_t seq_len) { return (seq_len + kConvBlock - 1) / kConvBlock; }

CEILING_CPU_KERNEL(causal_conv1d_forward, CausalConv1dParams);   // over B conv_blocks(T)
CEILING_CPU_KERNEL(causal_conv1d_backward, CausalConv1dParams);  // over B conv_blocks(T)

}  // namespace ceiling
