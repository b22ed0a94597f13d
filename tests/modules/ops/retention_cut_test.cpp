// How time is cut on a GPU: what the self-tests of retention rely on, and what no cut may do.
#include <gtest/gtest.h>

#include "modules/ops/retention/cut.h"

namespace ceiling {
namespace {

Cut cut_of(int64_t heads, int64_t m_dim, int64_t n_dim, int64_t seq_len) {
  return cheapest_cut({heads, m_dim, n_dim}, seq_len, /*same_next=*/false);
}

TEST(RetentionCutTest, NoSegmentIsEmpty) {
  for (const int64_t heads : {1, 3, 17, 48, 200})
    for (const int64_t m_dim : {64, 128, 256, 512})
      for (const int64_t n_dim : {64, 128, 512})
        for (int64_t seq_len = 1; seq_len < 40000; seq_len += 1 + seq_len / 7) {
          const Cut cut = cut_of(heads, m_dim, n_dim, seq_len);
          const int64_t units = (seq_len + kSweepUnit - 1) / kSweepUnit;
          for (const int64_t segments : {cut.segments, cut.recorded}) {
            ASSERT_GE(segments, 1);
            const int64_t each = (units + segments - 1) / segments;
            ASSERT_LT((segments - 1) * each, units) << heads << " " << seq_len;
          }
          ASSERT_GE(cut.parts, 1);
          ASSERT_TRUE(cut.segments == 1 || cut.recorded == 1);
        }
}

TEST(RetentionCutTest, FewHeadsAreCutAndManyAreNot) {
  EXPECT_GT(cut_of(16, 128, 128, 32768).segments, 1);
  EXPECT_EQ(cut_of(256, 128, 128, 2048).segments, 1);
  EXPECT_EQ(cut_of(256, 128, 128, 2048).recorded, 1);
}

// The shapes of the self-test meet each way of finding the states that enter segments.
TEST(RetentionCutTest, TheSelfTestMeetsEachWay) {
  EXPECT_GT(cut_of(2, 128, 64, 600).segments, 1);
  const Cut in_parts = cut_of(1, 192, 320, 300);
  EXPECT_GT(in_parts.segments, 1);
  EXPECT_GT(in_parts.parts, 1);
  EXPECT_GT(cut_of(17, 72, 512, 390).recorded, 1);
}

// 192 slices on 132 SMs: shares of 1.5 slices instead of two rounds. 256 nearly fill two rounds.
TEST(RetentionCutTest, SlicesThatFillNoRoundAreDealtEvenly) {
  EXPECT_EQ(cut_of(48, 256, 512, 2048).dealt_blocks, 132);
  EXPECT_EQ(cut_of(48, 256, 512, 2048).segments, 1);
  EXPECT_EQ(cut_of(256, 128, 128, 2048).dealt_blocks, 0);
  EXPECT_EQ(cut_of(128, 256, 512, 2048).dealt_blocks, 0);
  EXPECT_EQ(cut_of(16, 128, 128, 2048).dealt_blocks, 0);
  // What the self-test and the test of many rows on a GPU (retention_test.cpp) rely on.
  EXPECT_GT(cut_of(70, 136, 136, 130).dealt_blocks, 0);
  EXPECT_GT(cut_of(140, 72, 128, 130).dealt_blocks, 0);
  EXPECT_EQ(cut_of(70, 72, 128, 130).segments, 1);
  EXPECT_GT(cut_of(48, 256, 512, 400).dealt_blocks, 0);
  EXPECT_EQ(cut_of(24, 256, 512, 400).segments, 1);
  for (const int64_t heads : {1, 33, 48, 70, 140, 500})
    for (const int64_t n_dim : {64, 128, 512})
      for (const int64_t seq_len : {64, 200, 2048, 30000}) {
        const Cut cut = cut_of(heads, 256, n_dim, seq_len);
        if (cut.dealt_blocks == 0) continue;
        EXPECT_EQ(cut.segments, 1);
        // No share is shorter than a slice, or its end would wait for that of another.
        EXPECT_GE(heads * ((n_dim + 127) / 128), cut.dealt_blocks);
      }
}

// Heads that share query and key, narrow ones: two of them are a block, and whoever makes out can
// note states down for the next sweep.
TEST(RetentionCutTest, PairsOfHeadsAreABlock) {
  const auto shape = [](int64_t heads, int64_t m_dim, int64_t n_dim, bool pairs) {
    return SweepShape{heads, m_dim, n_dim, /*skip=*/true, pairs};
  };
  EXPECT_EQ(shape(64, 128, 64, true).kernel(), SweepKernel::kPairs);
  EXPECT_EQ(shape(64, 72, 40, true).kernel(), SweepKernel::kPairs);
  EXPECT_EQ(shape(64, 128, 64, false).kernel(), SweepKernel::kNarrow);
  for (const auto& [m_dim, n_dim] : {std::pair{64, 64}, std::pair{256, 64}, std::pair{128, 128}})
    EXPECT_EQ(shape(64, m_dim, n_dim, true).kernel(), SweepKernel::kNarrow) << m_dim;
  EXPECT_EQ(sweep_tiling(shape(64, 128, 64, true)).heads, 2);
  // 264 blocks, two whole rounds of the SMs: nothing to gain.
  EXPECT_EQ(cheapest_cut(shape(528, 128, 64, true), 2048, true).segments, 1);
  // The row of ssd's self-test that is to meet segments.
  const Cut cut = cheapest_cut(shape(2, 128, 64, true), 600, true);
  EXPECT_GT(std::max(cut.segments, cut.recorded), 1);
}

}  // namespace
}  // namespace ceiling
