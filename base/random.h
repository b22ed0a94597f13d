// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). A number is a pure function
// of (seed, purpose, index), so nothing depends on order, threads or world size, and there is no
// state to save.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "base/hash.h"

namespace ceiling {

// The generator itself: four numbers from a counter of four and a key of two.
constexpr std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> c, uint32_t k0,
                                                uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return c;
}

class RandomStream {
 public:
  // `purpose` names what the numbers are for, for example "init/layers.0.attn.qkv.weight".
  RandomStream(uint64_t seed, std::string_view purpose)
      : key_(seed ^ fnv1a(purpose)), stream_(fnv1a(purpose)) {}

  // Four 32-bit numbers for this index.
  std::array<uint32_t, 4> block(uint64_t index) const {
    return philox4x32_10({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                          static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                         static_cast<uint32_t>(key_), static_cast<uint32_t>(key_ >> 32));
  }
  uint64_t bits(uint64_t index) const {
    const auto b = block(index);
    return b[0] | static_cast<uint64_t>(b[1]) << 32;
  }

  // [0, 1)
  double uniform(uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1p-53; }

  // Standard normal (Box-Muller).
  double normal(uint64_t index) const {
    const auto b = block(index);
    const double u = ((b[0] | static_cast<uint64_t>(b[1]) << 32) >> 11) * 0x1p-53 + 0x1p-54;
    const double v = ((b[2] | static_cast<uint64_t>(b[3]) << 32) >> 11) * 0x1p-53;
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  uint64_t key_, stream_;
};

}  // namespace ceiling
