// wgmma: matrix products of a warpgroup, four warps in a row of which the first is a multiple of
// four, on operands that lie in shared memory (PTX ISA, "Asynchronous Warpgroup Level Matrix
// Instructions"). All inline assembly for it is here: the emulator of the tests has another form of
// this file.
//
// The products run on after their instruction: until a wgmma_wait() for them nobody may touch the
// sums, the registers of a, or the tiles. After it wgmma_arrived() names the sums that are read
// next.
#pragma once
#include "modules/ops/cuda/ptx.cuh"

namespace ceiling::gpu {

// Before the first product, and again after registers that one takes were written.
__device__ __forceinline__ void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kLeft of the committed groups run.
template <int kLeft>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
// What products write and read must not move past the wait for them: the compiler knows nothing of
// it.
template <int kBlocks>
__device__ __forceinline__ void wgmma_arrived(float (&c)[kBlocks][4]) {
#pragma unroll
  for (int i = 0; i < kBlocks; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(c[i][j])::"memory");
}
template <int kSteps>
__device__ __forceinline__ void wgmma_used(uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int i = 0; i < kSteps; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(a[i][j])::"memory");
}
// Shared memory as this thread wrote it, asynchronous copies included, for the products that follow
// the next barrier.
__device__ __forceinline__ void publish_to_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Registers of a thread from here on; for all of a warpgroup at once.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// One of the block's barriers, 1 to 15, for `threads` of it: those who arrive tell, those who wait
// hear.
__device__ __forceinline__ void barrier_arrive(int barrier, int threads) {
  asm volatile("barrier.cta.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void barrier_wait(int barrier, int threads) {
  asm volatile("barrier.cta.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// 8 x 8 matrices of a warp as sums hold them, transposed, to shared memory: lane l gives the
// address of row l % 8 of matrix l / 8, where column l % 8 of the fragment goes.
__device__ __forceinline__ void store_matrices_transposed(uint32_t address,
                                                          const uint32_t (&from)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
      : "memory");
}

#define CEILING_REGISTERS_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define CEILING_REGISTERS_32 \
  CEILING_REGISTERS_16       \
  ", "                       \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CEILING_REGISTERS_64                                                         \
  CEILING_REGISTERS_32                                                               \
  ", "                                                                               \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CEILING_REGISTERS_128                                                        \
  CEILING_REGISTERS_64                                                               \
  ", "                                                                               \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, " \
  "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "   \
  "%123, %124, %125, %126, %127"
#define CEILING_SUMS_4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define CEILING_SUMS_16(i) \
  CEILING_SUMS_4(i), CEILING_SUMS_4(i + 1), CEILING_SUMS_4(i + 2), CEILING_SUMS_4(i + 3)
#define CEILING_SUMS_32(i) CEILING_SUMS_16(i), CEILING_SUMS_16(i + 4)
#define CEILING_SUMS_64(i) CEILING_SUMS_32(i), CEILING_SUMS_32(i + 8)
#define CEILING_SUMS_128(i) CEILING_SUMS_64(i), CEILING_SUMS_64(i + 16)

// c [64, kN] += a [64, 16] b [16, kN], or c = a b unless `add`; a and b tiles whose columns are
// summed over. Sums as those of mma, block i the columns 8 i to 8 i + 7, warp w of the group the
// rows from 16 w.
__device__ __forceinline__ void wgmma(float (&c)[4][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" CEILING_REGISTERS_16
      "}, %16, %17, p, 1, 1, 0, 0;\n}"
      : CEILING_SUMS_16(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ __forceinline__ void wgmma(float (&c)[8][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CEILING_REGISTERS_32
      "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : CEILING_SUMS_32(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// The same with 16 columns of a in registers, laid out as those of mma, warp w's rows from 16 w.
__device__ __forceinline__ void wgmma(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b,
                                      bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CEILING_REGISTERS_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
      : CEILING_SUMS_32(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
// And with b a tile whose rows are summed over.
__device__ __forceinline__ void wgmma_rows(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CEILING_REGISTERS_32
               "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : CEILING_SUMS_32(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_rows(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" CEILING_REGISTERS_64
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : CEILING_SUMS_64(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_rows(float (&c)[32][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" CEILING_REGISTERS_128
               "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 1;"
               : CEILING_SUMS_128(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

}  // namespace ceiling::gpu
