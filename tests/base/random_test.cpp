#include "base/random.h"

#include <gtest/gtest.h>

#include <set>

namespace ceiling {
namespace {

using Block = std::array<uint32_t, 4>;

// The known-answer vectors of Random123, the library of the paper's authors, for philox4x32 with 10
// rounds.
TEST(RandomTest, PhiloxGivesTheKnownAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, 0, 0),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomTest, ANumberDependsOnSeedPurposeAndIndexAlone) {
  const RandomStream stream(7, "init/a");
  const uint64_t fifth = stream.bits(5);
  stream.bits(6);
  EXPECT_EQ(stream.bits(5), fifth);
  EXPECT_EQ(RandomStream(7, "init/a").bits(5), fifth);
  EXPECT_NE(RandomStream(8, "init/a").bits(5), fifth);
  EXPECT_NE(RandomStream(7, "init/b").bits(5), fifth);
  EXPECT_NE(stream.bits(4), fifth);
}

TEST(RandomTest, BothHalvesOfTheIndexCount) {
  const RandomStream stream(1, "x");
  std::set<uint64_t> seen;
  for (int bit = 0; bit < 64; ++bit) seen.insert(stream.bits(uint64_t{1} << bit));
  EXPECT_EQ(seen.size(), 64u);
}

// Bounds: five standard errors of 100,000 independent draws.
TEST(RandomTest, UniformNumbersFillTheUnitIntervalEvenly) {
  const RandomStream stream(3, "uniform");
  double sum = 0, squares = 0;
  const int n = 100'000;
  for (int i = 0; i < n; ++i) {
    const double u = stream.uniform(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u, squares += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.0046);
  EXPECT_NEAR(squares / n, 1.0 / 3, 0.0048);
}

TEST(RandomTest, NormalNumbersHaveTheMomentsOfTheNormal) {
  const RandomStream stream(3, "normal");
  double sum = 0, squares = 0, cubes = 0, fourths = 0;
  const int n = 100'000;
  for (int i = 0; i < n; ++i) {
    const double z = stream.normal(i);
    ASSERT_TRUE(std::isfinite(z));
    sum += z, squares += z * z, cubes += z * z * z, fourths += z * z * z * z;
  }
  EXPECT_NEAR(sum / n, 0, 0.016);
  EXPECT_NEAR(squares / n, 1, 0.023);
  EXPECT_NEAR(cubes / n, 0, 0.062);
  EXPECT_NEAR(fourths / n, 3, 0.155);
}

TEST(RandomTest, StreamsAreUncorrelated) {
  const RandomStream a(1, "a"), b(1, "b"), c(2, "a");
  double ab = 0, ac = 0, neighbours = 0;
  const int n = 100'000;
  for (int i = 0; i < n; ++i) {
    ab += a.normal(i) * b.normal(i);
    ac += a.normal(i) * c.normal(i);
    neighbours += a.normal(i) * a.normal(i + 1);
  }
  for (const double sum : {ab, ac, neighbours}) EXPECT_NEAR(sum / n, 0, 0.016);
}

}  // namespace
}  // namespace ceiling
