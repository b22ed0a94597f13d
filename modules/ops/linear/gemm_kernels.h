// cuBLASLt's products as libceiling_cuda.so provides them; no torch here, and nothing of cuBLASLt.
#pragma once
#include <compare>
#include <cstdint>

namespace ceiling {

// A matrix in memory: rows of `stride` numbers, or columns if it is transposed.
struct GemmOperand {
  bool transposed = false;
  int64_t stride = 0;
  auto operator<=>(const GemmOperand&) const = default;
};

// out [m, n] = a [m, k] b [k, n] (+ addend [m, n]); a and b bfloat16, out and addend bfloat16 or
// float32, with rows of their own strides. All begin at multiples of 16 bytes, and so do rows.
struct GemmShape {
  int device = 0;
  int64_t m = 0, n = 0, k = 0;
  GemmOperand a, b;
  int64_t out_stride = 0, addend_stride = 0;
  bool wide_out = false, add = false;
  auto operator<=>(const GemmShape&) const = default;
};

struct GemmTensors {
  const void *a = nullptr, *b = nullptr, *addend = nullptr;
  void* out = nullptr;
};

constexpr int kFastestKnownGemm = -1, kMeasuredGemm = -2;

// Empty where the library was built without cuBLASLt's header.
struct GemmKernels {
  // Kernels that give the same bits as the one that the library would take; 0: it has none.
  int (*n_candidates)(const GemmShape& shape) = nullptr;
  // On the current stream, by a candidate or as said above. False if the library has no kernel.
  // Measures at the first call that asks for it, outside of a CUDA graph's recording. Safe in
  // several threads.
  bool (*run)(const GemmShape& shape, const GemmTensors& tensors, int candidate) = nullptr;
};
inline GemmKernels gemm_kernels;

}  // namespace ceiling
