#include "data/order.h"

#include <bit>

#include "base/error.h"
#include "base/random.h"

namespace ceiling {

namespace {
// Finaliser of splitmix64 (Steele et al., 2014): every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
}  // namespace

EpochOrder::EpochOrder(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t part) : n_(n) {
  const int bits = n > 1 ? std::bit_width(n - 1) : 0;
  left_bits_ = bits / 2;
  right_bits_ = bits - left_bits_;
  const RandomStream random(seed, fmt::format("data/order of part {} in epoch {}", part, epoch));
  for (size_t round = 0; round < kRounds; ++round) keys_[round] = random.bits(round);
}

uint64_t EpochOrder::operator[](uint64_t position) const {
  const uint64_t left_mask = (uint64_t{1} << left_bits_) - 1,
                 right_mask = (uint64_t{1} << right_bits_) - 1;
  uint64_t x = position;
  do {
    uint64_t left = x >> right_bits_, right = x & right_mask;
    for (size_t round = 0; round < kRounds; round += 2) {
      left ^= mix(right + keys_[round]) & left_mask;
      right ^= mix(left + keys_[round + 1]) & right_mask;
    }
    x = left << right_bits_ | right;
  } while (x >= n_);
  return x;
}

}  // namespace ceiling
