#include "data/mixture.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace ceiling {
namespace {

// After every n the count of each part is within 1 of n times its share, and its indices run 0, 1,
// 2, ...
void expect_fair(const Mixture& mixture, size_t n_parts, int64_t n_samples) {
  std::vector<int64_t> used(n_parts, 0);
  for (int64_t n = 0; n < n_samples; ++n) {
    const Mixture::Place place = mixture.at(n);
    ASSERT_EQ(place.index, used[static_cast<size_t>(place.part)]++);
    for (size_t i = 0; i < n_parts; ++i) {
      const double wanted = static_cast<double>(n + 1) *
                            static_cast<double>(mixture.count(static_cast<int64_t>(i))) /
                            static_cast<double>(mixture.period());
      ASSERT_LT(std::abs(static_cast<double>(used[i]) - wanted), 1.0)
          << "part " << i << " after " << n + 1;
    }
  }
}

TEST(Mixture, CountsStayWithinOneOfTheirShareForRandomWeights) {
  const RandomStream random(11, "test/weights");
  for (uint64_t trial = 0; trial < 60; ++trial) {
    const size_t n_parts = 1 + trial % 12;
    std::vector<double> weights;
    // From nearly equal to four orders of magnitude apart.
    for (size_t i = 0; i < n_parts; ++i)
      weights.push_back(
          std::exp(9 * random.uniform(trial * 100 + i) * static_cast<double>(trial % 3) / 2));
    const Mixture mixture(weights);
    expect_fair(mixture, n_parts, 20000);
    double sum = 0;
    for (const double w : weights) sum += w;
    for (size_t i = 0; i < n_parts; ++i)
      EXPECT_NEAR(static_cast<double>(mixture.count(static_cast<int64_t>(i))) /
                      static_cast<double>(mixture.period()),
                  weights[i] / sum, 1.0 / Mixture::kMaxPeriod);
  }
}

TEST(Mixture, UsualWeightsAreExact) {
  const Mixture mixture({0.7, 0.2, 0.1});
  EXPECT_EQ(mixture.period(), 10);
  EXPECT_EQ(mixture.count(0), 7);
  EXPECT_EQ(Mixture({1, 2, 4}).period(), 7);
  EXPECT_EQ(Mixture({33.3333, 66.6667}).period(), 65536) << "no exact fraction up to there";
  EXPECT_EQ(Mixture({0.1234, 0.8766}).count(0), 617);
  EXPECT_EQ(Mixture({5}).period(), 1);
}

TEST(Mixture, SmallPartsAreSpreadNotBunched) {
  const Mixture mixture({0.98, 0.01, 0.01});
  expect_fair(mixture, 3, 1000);
}

TEST(Mixture, FarPositionsNeedNoHistory) {
  const Mixture mixture({3, 1});
  const int64_t far = (int64_t{1} << 50) * 4;
  int64_t of_first = 0;
  for (int64_t p = far; p < far + 4; ++p) {
    const Mixture::Place place = mixture.at(p);
    EXPECT_EQ(place.index,
              (int64_t{1} << 50) * (place.part == 0 ? 3 : 1) + (place.part == 0 ? of_first++ : 0));
  }
  EXPECT_EQ(of_first, 3);
}

TEST(Mixture, BadWeightsAreRefused) {
  const auto message = [](const std::vector<double>& weights) -> std::string {
    try {
      Mixture mixture(weights);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({1, 0}), "mixture: weight 0 is out of range, must be more than 0");
  EXPECT_EQ(message({1, -2}), "mixture: weight -2 is out of range, must be more than 0");
  EXPECT_EQ(message({NAN}), "mixture: weight nan is out of range, must be more than 0");
  EXPECT_EQ(message({1, 1e-9}),
            "mixture: weight 1e-09 is less than 1/65536 of all weights together, too little to be "
            "sampled");
}

}  // namespace
}  // namespace ceiling
