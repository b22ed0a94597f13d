// The emulator's form of modules/ops/cuda/wgmma_ptx.cuh: every thread finds its own sums when it
// waits for them.
#pragma once
#include <array>

#include "modules/ops/cuda/ptx.cuh"

namespace ceiling::gpu {

inline void wgmma_begin() {}
inline void wgmma_commit() { emulator::commit_products(); }
template <int kLeft>
void wgmma_wait() {
  emulator::wait_products(kLeft);
}
template <int kBlocks>
void wgmma_arrived(float (&)[kBlocks][4]) {}
template <int kSteps>
void wgmma_used(uint32_t (&)[kSteps][4]) {}
inline void publish_to_wgmma() {}
template <int kRegisters>
void take_registers() {}
template <int kRegisters>
void give_registers() {}
inline void barrier_arrive(int barrier, int threads) {
  emulator::named_barrier(barrier, threads, false);
}
inline void barrier_wait(int barrier, int threads) {
  emulator::named_barrier(barrier, threads, true);
}

inline void store_matrices_transposed(uint32_t address, const uint32_t (&from)[4]) {
  const auto* all = emulator::exchange(0xffffffffu, address);
  const int lane = emulator::self().lane;
  for (int m = 0; m < 4; ++m) {
    uint16_t both[2];
    std::memcpy(both, &from[m], 4);
    for (int k = 0; k < 2; ++k) {
      const auto row = emulator::given<uint32_t>(all, 8 * m + 2 * (lane % 4) + k);
      std::memcpy(static_cast<unsigned char*>(emulator::at_address(row)) + 2 * (lane / 4), &both[k],
                  2);
    }
  }
  emulator::exchange(0xffffffffu, 0);  // all have written before any lane goes on to read
}

namespace emulated {

inline float wide(uint16_t x) { return __uint_as_float(static_cast<uint32_t>(x) << 16); }

// What a descriptor names: 16 columns (k) of rows (i), or 16 rows (k) of columns (i).
class Operand {
 public:
  Operand(uint64_t descriptor, bool along_rows)
      : address_(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        between_panels_(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        between_groups_(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4),
        along_rows_(along_rows) {
    if (descriptor >> 62 != 1 || (along_rows && address_ % 1024 != 0)) std::abort();
  }
  // All k of i, and of i + 1; i is even.
  void pair(int i, float (&first)[16], float (&second)[16]) const {
    if (!along_rows_) return one(i, first), one(i + 1, second);
    for (int k = 0; k < 16; ++k) {
      uint16_t both[2];
      std::memcpy(both, at(k, i), sizeof both);
      first[k] = wide(both[0]), second[k] = wide(both[1]);
    }
  }
  void one(int i, float (&to)[16]) const {
    for (int k = 0; k < 16; k += 8) {
      uint16_t piece[8];
      std::memcpy(piece, at(i, k), sizeof piece);
      for (int j = 0; j < 8; ++j) to[k + j] = wide(piece[j]);
    }
  }

 private:
  const void* at(int row, int column) const {
    uint32_t at = address_ + static_cast<uint32_t>(row / 8) * between_groups_ +
                  static_cast<uint32_t>(row % 8) * 128 + static_cast<uint32_t>(column) % 64 * 2;
    if (along_rows_) at += static_cast<uint32_t>(column / 64) * between_panels_;
    return emulator::at_address((1u << 31) + (at ^ (at >> 7 & 7) << 4));
  }

  uint32_t address_, between_panels_, between_groups_;
  bool along_rows_;
};

struct Rows {
  float of[2][16];  // this thread's of a: 16 w + g and that + 8
};
template <int kBlocks, class Left>
void product_later(float (&c)[kBlocks][4], Left left, Operand b, bool add) {
  emulator::product_later([&c, left, b, add] {
    const int t = emulator::self().lane % 4;
    const Rows a = left();
    for (int i = 0; i < kBlocks; ++i) {
      float right[2][16], sum[2][2] = {};
      b.pair(8 * i + 2 * t, right[0], right[1]);
      for (int half = 0; half < 2; ++half)
        for (int side = 0; side < 2; ++side)
          for (int k = 0; k < 16; ++k) sum[half][side] += a.of[half][k] * right[side][k];
      for (int half = 0; half < 2; ++half)
        for (int side = 0; side < 2; ++side) {
          float& to = c[i][2 * half + side];
          to = (add ? to : 0.0f) + sum[half][side];
        }
    }
  });
}

template <int kBlocks>
void product_later(float (&c)[kBlocks][4], const uint32_t (&a)[4], Operand b, bool add) {
  std::array<std::array<uint16_t, 2>, 4> mine;
  std::memcpy(mine.data(), a, sizeof mine);
  const auto* all = emulator::exchange(0xffffffffu, mine);
  const int g = emulator::self().lane / 4;
  Rows rows;
  for (int k = 0; k < 16; ++k)
    for (int half = 0; half < 2; ++half)
      rows.of[half][k] =
          wide(emulator::given<decltype(mine)>(all, 4 * g + k % 8 / 2)[k / 8 * 2 + half][k % 2]);
  product_later(
      c, [rows] { return rows; }, b, add);
}

}  // namespace emulated

template <int kBlocks>
void wgmma(float (&c)[kBlocks][4], uint64_t a, uint64_t b, bool add) {
  const int row =
      static_cast<int>(emulator::self().index.x) / 32 % 4 * 16 + emulator::self().lane / 4;
  const auto rows = [row, a = emulated::Operand(a, false)] {
    emulated::Rows rows;
    a.one(row, rows.of[0]), a.one(row + 8, rows.of[1]);
    return rows;
  };
  emulated::product_later(c, rows, emulated::Operand(b, false), add);
}
inline void wgmma(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  emulated::product_later(c, a, emulated::Operand(b, false), add);
}
template <int kBlocks>
void wgmma_rows(float (&c)[kBlocks][4], const uint32_t (&a)[4], uint64_t b) {
  emulated::product_later(c, a, emulated::Operand(b, true), true);
}

}  // namespace ceiling::gpu
