#include "train/peak.h"

#include <gtest/gtest.h>

namespace ceiling {
namespace {

TEST(PeakTest, IsMeasuredAgainOnlyWhereWorkExceedsIt) {
  const Peak measured = peak_of(at::kCPU, at::kFloat);
  Peak peak = measured;
  EXPECT_FALSE(raise_exceeded_peak(peak, 0.9 * measured.flops_per_s, at::kCPU, at::kFloat));
  EXPECT_EQ(peak.flops_per_s, measured.flops_per_s);
  // As if the machine had been a hundred times slower.
  peak.flops_per_s = measured.flops_per_s / 100;
  EXPECT_TRUE(raise_exceeded_peak(peak, measured.flops_per_s / 2, at::kCPU, at::kFloat));
  EXPECT_GT(peak.flops_per_s, measured.flops_per_s / 20);
}

TEST(PeakTest, IsMeasuredAFewTimesAndADataSheetsNever) {
  Peak peak = peak_of(at::kCPU, at::kFloat);
  for (int i = 0; i < 5; ++i) raise_exceeded_peak(peak, 1e30, at::kCPU, at::kFloat);
  EXPECT_EQ(peak.measurements_left, 0);
  Peak sheet{.flops_per_s = 1, .source = "a data sheet"};
  EXPECT_FALSE(raise_exceeded_peak(sheet, 1e30, at::kCPU, at::kFloat));
  EXPECT_EQ(sheet.flops_per_s, 1);
}

}  // namespace
}  // namespace ceiling
