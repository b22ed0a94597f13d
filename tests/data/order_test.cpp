#include "data/order.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace ceiling {
namespace {

std::vector<uint64_t> whole_order(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t part) {
  const EpochOrder order(n, seed, epoch, part);
  std::vector<uint64_t> all(n);
  for (uint64_t i = 0; i < n; ++i) all[i] = order[i];
  return all;
}

void expect_bijection(uint64_t n, uint64_t seed) {
  std::vector<bool> seen(n, false);
  const EpochOrder order(n, seed, 0, 0);
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t sample = order[i];
    ASSERT_LT(sample, n);
    ASSERT_FALSE(seen[sample]) << "n " << n << " position " << i;
    seen[sample] = true;
  }
}

TEST(EpochOrder, EverySampleComesExactlyOnce) {
  for (uint64_t n = 1; n <= 1100; ++n) expect_bijection(n, n);
  for (const uint64_t n : {65535u, 65536u, 65537u, 1000003u}) expect_bijection(n, 5);
}

TEST(EpochOrder, WorksAtTheLargestSizes) {
  const uint64_t n = (uint64_t{1} << 62) + 12345;
  const EpochOrder order(n, 1, 0, 0);
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_LT(order[n - 1 - i], n);
}

TEST(EpochOrder, SeedEpochAndPartEachGiveAnotherOrder) {
  const auto base = whole_order(1000, 1, 0, 0);
  EXPECT_EQ(base, whole_order(1000, 1, 0, 0));
  EXPECT_NE(base, whole_order(1000, 2, 0, 0));
  EXPECT_NE(base, whole_order(1000, 1, 1, 0));
  EXPECT_NE(base, whole_order(1000, 1, 0, 1));
}

TEST(EpochOrder, IsPinned) {
  // A change here changes what every run sees after a resume: raise kOrderVersion with it.
  EXPECT_EQ(kOrderVersion, 1);
  EXPECT_EQ(whole_order(10, 1, 0, 0), (std::vector<uint64_t>{7, 3, 9, 4, 0, 6, 8, 1, 2, 5}));
}

// Chi-square of where samples land: 20 x 20 cells of (position, sample), 361 degrees of freedom.
TEST(EpochOrder, PositionsAndSamplesAreIndependent) {
  constexpr uint64_t kN = 100000, kCells = 20;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const auto order = whole_order(kN, seed, 0, 0);
    std::vector<double> cells(kCells * kCells, 0);
    for (uint64_t i = 0; i < kN; ++i) cells[i * kCells / kN * kCells + order[i] * kCells / kN] += 1;
    double chi = 0;
    const double expected = static_cast<double>(kN) / (kCells * kCells);
    for (const double count : cells) chi += (count - expected) * (count - expected) / expected;
    EXPECT_LT(std::abs(chi - 361), 5 * std::sqrt(2 * 361.0)) << "seed " << seed;
  }
}

TEST(EpochOrder, NeighboursInTheStreamAreNotNeighboursInTheOrder) {
  constexpr uint64_t kN = 100000;
  const auto order = whole_order(kN, 3, 0, 0);
  int64_t near = 0;
  for (uint64_t i = 1; i < kN; ++i)
    near += std::abs(static_cast<int64_t>(order[i]) - static_cast<int64_t>(order[i - 1])) <= 10;
  EXPECT_LT(near, 60);  // 20 expected of a random order
}

TEST(EpochOrder, SmallOrdersAreEquallyLikely) {
  // All 24 orders of four samples, over 24,000 epochs: 1,000 each, standard deviation 31.
  std::vector<int> count(256, 0);
  for (uint64_t epoch = 0; epoch < 24000; ++epoch) {
    const auto order = whole_order(4, 9, epoch, 0);
    ++count[order[0] * 64 + order[1] * 16 + order[2] * 4 + order[3]];
  }
  int orders = 0;
  for (const int c : count) {
    if (c == 0) continue;
    ++orders;
    EXPECT_NEAR(c, 1000, 200);
  }
  EXPECT_EQ(orders, 24);
}

}  // namespace
}  // namespace ceiling
