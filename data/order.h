// The order in which the samples of one epoch are seen: a keyed bijection of [0, n), computed per
// position. It needs no memory, no shuffle buffer and nothing to restore.
//   Feistel network on the smallest [0, 2^b) that holds n, walking the cycle while the value lies
//   outside [0, n) (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002: fewer than 2
//   walks on average).
#pragma once
#include <array>
#include <cstdint>

namespace ceiling {

// Changes whenever the same (seed, epoch, part) would give another order: resume must not mix the
// two.
inline constexpr int kOrderVersion = 1;

class EpochOrder {
 public:
  // `part` tells apart the datasets of a mixture.
  EpochOrder(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t part);
  // Index of the sample seen at `position`, both below n.
  uint64_t operator[](uint64_t position) const;

 private:
  static constexpr int kRounds =
      12;  // even; half of them leave visible structure for n below a hundred
  uint64_t n_;
  int left_bits_, right_bits_;
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace ceiling
