// For kernel_cuda.cu files: tiles in shared memory as the products of a warpgroup (wgmma) read
// them.
#pragma once
#include "modules/ops/cuda/wgmma_ptx.cuh"

namespace ceiling::gpu {

// kRows rows of kColumns bfloat16 in panels of 64 columns, one after another; a panel's row has 128
// bytes, whose eight pieces of 16 change places by the row's number, so that a column's pieces lie
// in different banks ("128-byte swizzle"). Begins at a multiple of 1024 bytes.
template <int kColumns, int kRows>
struct PanelTile {
  static_assert(kColumns % 64 == 0 && kRows % 8 == 0);
  static constexpr int kPieces = kColumns / 8;  // of 16 bytes, in a row
  static constexpr uint32_t kPanel = kRows * 128, kBytes = kColumns / 64 * kPanel;
  // at() of rows that are multiples of it adds up, as it does of columns that are multiples of 64.
  static constexpr int kRowPeriod = 8;

  // From the tile's begin to element (row, column), column a multiple of 8.
  __host__ __device__ static constexpr uint32_t at(int row, int column) {
    return static_cast<uint32_t>(column) / 64 * kPanel + static_cast<uint32_t>(row) * 128 +
           (static_cast<uint32_t>(column) / 8 % 8 ^ static_cast<uint32_t>(row) % 8) * 16;
  }
  // Descriptors (PTX ISA, "Matrix Descriptor Format"): address, distances between panels and
  // between groups of eight rows, all in pieces of 16 bytes; swizzle.
  //
  // Of 16 columns from `column` on, which a product sums over, of the rows from `row` on, a
  // multiple of 8:
  __device__ static __forceinline__ uint64_t columns(uint32_t tile, int row, int column) {
    return descriptor(tile, static_cast<uint32_t>(column) / 64 * kPanel +
                                static_cast<uint32_t>(row) * 128 +
                                static_cast<uint32_t>(column) % 64 * 2);
  }
  // Of 16 rows from `row` on, which a product sums over, of all columns.
  __device__ static __forceinline__ uint64_t rows(uint32_t tile, int row) {
    return descriptor(tile, static_cast<uint32_t>(row) * 128);
  }

 private:
  // The parts of a descriptor do not overflow into each other, so that a constant offset stays one
  // addition.
  __device__ static __forceinline__ uint64_t descriptor(uint32_t tile, uint32_t offset) {
    constexpr uint32_t kSwizzle128 = 1, kGroup = 1024;
    return uint64_t{kGroup >> 4 | kSwizzle128 << 30} << 32 |
           (((tile & 0x3ffff) >> 4 | kPanel >> 4 << 16) + (offset >> 4));
  }
};

}  // namespace ceiling::gpu
