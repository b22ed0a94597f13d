// CPU kernels are compiled once per instruction set (cmake/CpuKernels.cmake) and chosen at run
// time.
//   kernels.h       CEILING_CPU_KERNEL(softmax_rows, SoftmaxParams);
//   kernel_cpu.cpp  namespace ceiling::CEILING_ISA {
//                   void softmax_rows(const SoftmaxParams& p, int64_t begin, int64_t end) { .. }
//                   }
//   softmax.cpp     at::parallel_for(0, rows, grain, [&](int64_t b, int64_t e) {
//                     softmax_rows(params, b, e);
//                   });
#pragma once
#include <cstdint>

namespace ceiling {

enum class CpuIsa { kGeneric, kAvx2, kAvx512 };
CpuIsa cpu_isa();  // of this processor

// Element types of activations that CPU kernels know. Arithmetic is in double for kDouble, else in
// float.
enum class CpuType { kDouble, kFloat, kBFloat16 };

#define CEILING_CPU_KERNEL(name, Params)                                 \
  namespace generic {                                                    \
  void name(const Params& params, int64_t begin, int64_t end);           \
  }                                                                      \
  namespace avx2 {                                                       \
  void name(const Params& params, int64_t begin, int64_t end);           \
  }                                                                      \
  namespace avx512 {                                                     \
  void name(const Params& params, int64_t begin, int64_t end);           \
  }                                                                      \
  inline void name(const Params& params, int64_t begin, int64_t end) {   \
    const CpuIsa isa = cpu_isa();                                        \
    if (isa == CpuIsa::kAvx512) return avx512::name(params, begin, end); \
    if (isa == CpuIsa::kAvx2) return avx2::name(params, begin, end);     \
    return generic::name(params, begin, end);                            \
  }                                                                      \
  static_assert(true, "a semicolon follows")

}  // namespace ceiling
