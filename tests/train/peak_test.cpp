#include "train/peak.h"

#include <gtest/gtest.h>

namespace ceiling {
namespace {

TEST(PeakTest, IsMeasuredAgainOnlyWhereWorkExceedsIt) {
  const Peak measured = peak_of(at::kCPU, at::kFloat);
  Peak peak = measured;
  EXPECT_NEAR(utilisation(peak, 0.5 * measured.flops_per_s, at::kCPU, at::kFloat), 0.5, 1e-12);
  EXPECT_EQ(peak.flops_per_s, measured.flops_per_s);
  // As if the machine had been a hundred times slower.
  peak.flops_per_s = measured.flops_per_s / 100;
  EXPECT_LT(utilisation(peak, measured.flops_per_s / 50, at::kCPU, at::kFloat), 1);
  EXPECT_GT(peak.flops_per_s, measured.flops_per_s / 50);
}

TEST(PeakTest, IsMeasuredAFewTimesAndADataSheetsNever) {
  Peak peak = peak_of(at::kCPU, at::kFloat);
  for (int i = 0; i < 5; ++i) utilisation(peak, 1e30, at::kCPU, at::kFloat);
  EXPECT_EQ(peak.measurements_left, 0);
  Peak sheet{.flops_per_s = 1, .source = "a data sheet"};
  EXPECT_EQ(utilisation(sheet, 3, at::kCPU, at::kFloat), 3);
  EXPECT_EQ(sheet.flops_per_s, 1);
}

}  // namespace
}  // namespace ceiling
