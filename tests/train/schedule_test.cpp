#include "train/schedule.h"

#include <gtest/gtest.h>

namespace ceiling {
namespace {

class ScheduleTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ScheduleTest, IsFiniteWithinBoundsAndStartsAtThePeakAfterWarmup) {
  for (const int64_t steps : {1, 2, 7, 100}) {
    for (const int64_t warmup : {int64_t{0}, int64_t{1}, steps / 2, steps - 1}) {
      const Schedule s{.shape = GetParam(),
                       .peak = 3e-3,
                       .low = 3e-4,
                       .warmup_steps = warmup,
                       .decay_steps = steps / 5,
                       .steps = steps};
      for (int64_t step = 1; step <= steps; ++step) {
        EXPECT_GE(s.at(step), step <= warmup ? 0 : s.low - 1e-18) << step;
        EXPECT_LE(s.at(step), s.peak + 1e-18) << step;
      }
      if (warmup > 0) {
        EXPECT_DOUBLE_EQ(s.at(warmup), s.peak);
      }
      EXPECT_GT(s.at(1), 0);
    }
  }
}

TEST_P(ScheduleTest, OneStepTrainsAtThePeak) {
  const Schedule s{
      .shape = GetParam(), .peak = 3e-3, .low = 0, .warmup_steps = 0, .decay_steps = 0, .steps = 1};
  EXPECT_DOUBLE_EQ(s.at(1), 3e-3);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ScheduleTest,
                         ::testing::Values("cosine", "linear", "wsd", "constant"));

TEST(ScheduleShapeTest, WsdStaysAtThePeakThenFallsToLow) {
  const Schedule s{
      .shape = "wsd", .peak = 1, .low = 0.1, .warmup_steps = 10, .decay_steps = 20, .steps = 100};
  EXPECT_DOUBLE_EQ(s.at(5), 0.5);
  EXPECT_DOUBLE_EQ(s.at(80), 1);
  EXPECT_DOUBLE_EQ(s.at(90), 0.55);
  EXPECT_DOUBLE_EQ(s.at(100), 0.1);
}

TEST(ScheduleShapeTest, CosineIsHalfWayInTheMiddle) {
  const Schedule s{
      .shape = "cosine", .peak = 1, .low = 0, .warmup_steps = 0, .decay_steps = 0, .steps = 100};
  EXPECT_NEAR(s.at(51), 0.5, 1e-12);
}

}  // namespace
}  // namespace ceiling
