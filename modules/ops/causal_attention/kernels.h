#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct AttentionRows {  // [B, T or S, heads, head_dim], unit stride within a head
  void* data;
  int64_t batch_stride, time_stride, head_stride;  // elements
};

// What multiplies bfloat16 numbers; sums are float32 with each.
enum class Bf16Product {
  kWidened,  // fused multiply-adds in float32, on any processor
  kPairs,    // AVX512-BF16: two products and two sums at once
  kTiles     // AMX
};

// Queries of all heads that share a key head are its rows: row r is token r / group, head r % group
// of the group.
struct CausalAttentionParams {
  CpuType type;
  Bf16Product product;
  int64_t seq_len, n_keys, kv_heads, group, head_dim;
  double scale;
  AttentionRows q, k, v, out;
  AttentionRows dout, dq, dk, dv;
  const int* first_key;  // [B, T]: the first key that a query sees, not decreasing; null: 0
  void* lse;             // [B, kv_heads, T group]: log of the sum of exp(scale q . k)
  int64_t splits;        // forward: each key head's rows are cut into this many tasks
  void* workspace;       // of this call
};

constexpr int64_t kAttentionBlock = 64;  // rows and keys of one block of scores
constexpr int64_t kAttentionFill = 32;   // sizes are filled up to whole register tiles

constexpr int64_t attention_filled(int64_t n) {
  return (n + kAttentionFill - 1) / kAttentionFill * kAttentionFill;
}

// Numbers of the width of sums. Factors are packed for the products: forward all keys and values,
// backward queries and gradients of the output twice each, next to the gradient of the queries.
constexpr int64_t causal_attention_forward_workspace(const CausalAttentionParams& p) {
  const int64_t width = attention_filled(p.head_dim), keys = attention_filled(p.n_keys);
  return (2 * keys + 4 * kAttentionBlock) * width + 2 * kAttentionBlock * kAttentionBlock + 256;
}
constexpr int64_t causal_attention_backward_workspace(const CausalAttentionParams& p) {
  const int64_t width = attention_filled(p.head_dim), rows = attention_filled(p.seq_len * p.group);
  return (5 * rows + 6 * kAttentionBlock) * width + 2 * rows +
         4 * kAttentionBlock * kAttentionBlock + 256;
}

CEILING_CPU_KERNEL(causal_attention_forward, CausalAttentionParams);   // over B kv_heads splits
CEILING_CPU_KERNEL(causal_attention_backward, CausalAttentionParams);  // over B kv_heads

}  // namespace ceiling
