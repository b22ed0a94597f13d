// For kernel_cuda.cu files: tensor-core products of bfloat16 tiles with float32 sums (mma.sync
// m16n8k16), and the shared-memory tiles that feed them.
//
// Fragments of one warp, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for
// mma.m16n8k16"):
//   A 16 x 16   a0: row g, columns 2t, 2t+1   a1: row g+8   a2: columns +8   a3: both
//   B 16 x 8    b0: rows 2t, 2t+1, column g   b1: rows +8
//   C 16 x 8    c0, c1: row g, columns 2t, 2t+1   c2, c3: row g+8
#pragma once
#include "modules/ops/cuda/vector.cuh"

namespace ceiling::gpu {

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
// Both halves times a factor of their own, rounded once.
__device__ __forceinline__ uint32_t scaled(uint32_t both, float low, float high) {
  const float2 x = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&both));
  return pack(x.x * low, x.y * high);
}

// Before launches of kKernel with `bytes` of dynamic shared memory. A failure shows at the launch.
template <auto kKernel>
void allow_shared(uint32_t bytes) {
  [[maybe_unused]] static const cudaError_t room = cudaFuncSetAttribute(
      kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// A tile of rows in shared memory, kColumns bfloat16 each. 16 spare bytes at the end of a row turn
// the next one by four banks, so that eight rows of one column fall into different banks, and every
// address is a lane's own offset plus a constant.
template <int kColumns>
struct Tile {
  static_assert(kColumns % 32 == 0, "the rotation by 16 bytes must visit all banks");
  static constexpr int kPitch = 2 * kColumns + 16;  // bytes
  static constexpr int kPieces = kColumns / 8;      // of 16 bytes, in a row
  static constexpr int kRowPeriod = 1;              // at() of rows that are multiples of it adds up
  // Lane offsets of load_matrices for 16 x 16 elements: matrices 0, 1 | 2, 3 are the upper and
  // lower half of columns 0-7 | 8-15 ...
  __device__ static __forceinline__ uint32_t down_first(int lane) {
    return static_cast<uint32_t>(lane % 16 * kPitch + lane / 16 * 16);
  }
  // ... or the left and right half of rows 0-7 | 8-15.
  __device__ static __forceinline__ uint32_t right_first(int lane) {
    return static_cast<uint32_t>((lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 16);
  }
  // From the first element of the tile to element (row, column), column a multiple of 8.
  static constexpr uint32_t at(int row, int column) {
    return static_cast<uint32_t>(row * kPitch + 2 * column);
  }
};

}  // namespace ceiling::gpu
