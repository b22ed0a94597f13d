// For kernel_cuda.cu files: asynchronous copies from global to shared memory, and leave to use more
// of it than 48 KB.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace ceiling::gpu {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory; zeros instead where `present` is false.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}
// 4 or 8 bytes, by way of L1.
template <int kBytes>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  static_assert(kBytes == 4 || kBytes == 8);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Before launches of kKernel with `bytes` of dynamic shared memory. A failure shows at the launch.
template <auto kKernel>
void allow_shared(uint32_t bytes) {
  [[maybe_unused]] static const cudaError_t room = cudaFuncSetAttribute(
      kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

}  // namespace ceiling::gpu
