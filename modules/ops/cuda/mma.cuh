// For kernel_cuda.cu files: tensor-core products of bfloat16 tiles with float32 sums (mma.sync
// m16n8k16), and the shared-memory tiles that feed them.
//
// Fragments of one warp, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for
// mma.m16n8k16"):
//   A 16 x 16   a0: row g, columns 2t, 2t+1   a1: row g+8   a2: columns +8   a3: both
//   B 16 x 8    b0: rows 2t, 2t+1, column g   b1: rows +8
//   C 16 x 8    c0, c1: row g, columns 2t, 2t+1   c2, c3: row g+8
#pragma once
#include "modules/ops/cuda/copies.cuh"
#include "modules/ops/cuda/vector.cuh"

namespace ceiling::gpu {

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

// c += a b
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float exp2_fast(float x) {
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"(x));
  return x;
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
// Both halves times a factor of their own, rounded once.
__device__ __forceinline__ uint32_t scaled(uint32_t both, float low, float high) {
  const float2 x = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&both));
  return pack(x.x * low, x.y * high);
}

// A tile of rows in shared memory, kColumns bfloat16 each. 16 spare bytes at the end of a row turn
// the next one by four banks, so that eight rows of one column fall into different banks, and every
// address is a lane's own offset plus a constant.
template <int kColumns>
struct Tile {
  static_assert(kColumns % 32 == 0, "the rotation by 16 bytes must visit all banks");
  static constexpr int kPitch = 2 * kColumns + 16;  // bytes
  static constexpr int kPieces = kColumns / 8;      // of 16 bytes, in a row
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
