// cuDNN's attention as libceiling_cuda.so provides it; no torch here, and nothing of cuDNN.
#pragma once
#include <compare>
#include <cstdint>

namespace ceiling {

// Elements from one to the next; heads' numbers lie side by side.
struct HeadStrides {
  int64_t row = 0, token = 0, head = 0;
  auto operator<=>(const HeadStrides&) const = default;
};

// What a plan is made for, and all that it depends on. Results and gradients are contiguous
// [.., T, H, head_dim].
struct CudnnAttentionShape {
  int device = 0;
  bool backward = false;
  int64_t rows = 0;           // or documents, some of which may be empty
  int64_t seq_len = 0;        // of a row; no document is longer
  int64_t packed_tokens = 0;  // of all documents together; 0: rows, not documents
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t window = 0;  // 0: none
  double scale = 1;
  HeadStrides q, k, v;
  auto operator<=>(const CudnnAttentionShape&) const = default;
};

// On the device. The rest of each group is not read where it does not apply.
struct CudnnAttentionTensors {
  void *q = nullptr, *k = nullptr, *v = nullptr, *out = nullptr;  // bfloat16
  void* log_sum_exp = nullptr;  // float32 [rows, H, T]; of documents [tokens, H]
  void *dout = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr;
  // Of documents: [n] int32 tokens, and [n + 1] int64 elements before each one in q, k, v, in out
  // (and dq, dout), in dk and dv, and in log_sum_exp.
  void* lengths = nullptr;
  void *before_q = nullptr, *before_k = nullptr, *before_v = nullptr;
  void *before_out = nullptr, *before_dkv = nullptr, *before_lse = nullptr;
  void* workspace = nullptr;
};

// Empty where the library was built without cuDNN's headers. Error, naming the shape and cuDNN's
// reason, from those that plan.
struct CudnnAttention {
  bool (*works_on)(int device) = nullptr;  // by the device, and the cuDNN that torch has loaded
  // Plans at the first call with a shape, which takes about a second.
  int64_t (*workspace_bytes)(const CudnnAttentionShape& shape) = nullptr;
  // On the current stream. Safe in several threads; a CUDA graph can record it, once planned.
  void (*run)(const CudnnAttentionShape& shape, const CudnnAttentionTensors& tensors) = nullptr;
};
inline CudnnAttention cudnn_attention_plans;

}  // namespace ceiling
