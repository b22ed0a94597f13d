// The emulator's form of modules/ops/cuda/ptx.cuh.
#pragma once
#include "tests/emulator/emulator.h"

namespace ceiling::gpu {

inline float exp2_of(float x) { return std::exp2(x); }
inline float inverse(float x) { return 1 / x; }
inline float inverse_root(float x) { return 1 / std::sqrt(x); }

template <class T>
T forgotten(T x) {
  return x;
}
inline uint32_t shared_address(const void* pointer) { return emulator::address_of(pointer); }
inline void copy_async(uint32_t to, const void* from, bool present) {
  emulator::copy_later(emulator::at_address(to), present ? from : nullptr, 16);
}
template <int kBytes>
void copy_async(uint32_t to, const void* from) {
  static_assert(kBytes == 4 || kBytes == 8);
  emulator::copy_later(emulator::at_address(to), from, kBytes);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int kLeft>
void wait_copies() {
  emulator::wait_copies(kLeft);
}
inline void set_flag(unsigned* flag) { *flag = 1; }
// Blocks run one after another.
inline void wait_for_flag(const unsigned* flag) {
  if (*flag == 0) emulator::fail("a block waits for one that has not run");
}
inline void store_if(bool present, void* to, uint4 value) {
  if (present) *static_cast<uint4*>(to) = value;
}
inline void store_shared(uint32_t to, uint32_t value) {
  std::memcpy(emulator::at_address(to), &value, sizeof value);
}

// Lane 4 i + j of matrix m holds elements (i, 2 j) and (i, 2 j + 1), transposed (2 j, i) and (2 j +
// 1, i).
inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  const auto* all = emulator::exchange(0xffffffffu, address);
  const int lane = emulator::self().lane;
  for (int m = 0; m < 4; ++m) {
    const auto row = emulator::given<uint32_t>(all, 8 * m + lane / 4);
    std::memcpy(&to[m], static_cast<unsigned char*>(emulator::at_address(row)) + 4 * (lane % 4), 4);
  }
  emulator::exchange(0xffffffffu,
                     0);  // the rows have been read before any lane goes on to overwrite them
}
inline void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
  const auto* all = emulator::exchange(0xffffffffu, address);
  const int lane = emulator::self().lane;
  for (int m = 0; m < 4; ++m) {
    uint16_t both[2];
    for (int k = 0; k < 2; ++k) {
      const auto row = emulator::given<uint32_t>(all, 8 * m + 2 * (lane % 4) + k);
      std::memcpy(&both[k], static_cast<unsigned char*>(emulator::at_address(row)) + 2 * (lane / 4),
                  2);
    }
    std::memcpy(&to[m], both, 4);
  }
  emulator::exchange(0xffffffffu, 0);
}

inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    uint16_t a[4][2], b[2][2];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  const uint32_t b[2] = {b0, b1};
  std::memcpy(mine.b, b, sizeof mine.b);
  const auto* all = emulator::exchange(0xffffffffu, mine);
  const auto wide = [](uint16_t x) { return __uint_as_float(static_cast<uint32_t>(x) << 16); };
  const int lane = emulator::self().lane, g = lane / 4, t = lane % 4;
  const auto of_lane = [&](int of) -> const Fragments& {
    return *reinterpret_cast<const Fragments*>(all[of].bytes);
  };
  for (int k = 0; k < 16; ++k)
    for (int side = 0; side < 2; ++side) {  // columns 2 t and 2 t + 1
      const float right = wide(of_lane(4 * (2 * t + side) + k % 8 / 2).b[k / 8][k % 2]);
      for (int half = 0; half < 2; ++half)  // rows g and g + 8
        c[2 * half + side] += wide(of_lane(4 * g + k % 8 / 2).a[k / 8 * 2 + half][k % 2]) * right;
    }
}

}  // namespace ceiling::gpu
