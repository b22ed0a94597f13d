#include "parallel/shard_layout.h"

#include <gtest/gtest.h>

namespace ceiling {
namespace {

// Every element is owned: by one rank within the buckets, by all in the tail.
TEST(ShardLayoutTest, EveryElementHasExactlyOneOwnerAndTheTailHasAll) {
  for (const int64_t size : {2, 3, 4, 7, 64})
    for (const int64_t n_flat : {128, 1280, 100'096, 1'000'064})
      for (const int64_t tail : {int64_t{0}, n_flat / 2 / 128 * 128, n_flat}) {
        std::vector<int> owners(static_cast<size_t>(n_flat));
        for (int64_t rank = 0; rank < size; ++rank) {
          const ShardLayout layout(n_flat, tail, {n_flat / 5, n_flat / 5 + 1, n_flat / 2}, rank,
                                   size);
          int64_t offset = 0;
          for (const OwnedPiece& piece : layout.pieces()) {
            EXPECT_EQ(piece.offset, offset);
            EXPECT_EQ(piece.range.begin % 128, 0);
            offset += piece.range.length();
            for (int64_t i = piece.range.begin; i < piece.range.end; ++i)
              ++owners[static_cast<size_t>(i)];
          }
          EXPECT_EQ(layout.n_owned(), offset);
          EXPECT_LE(layout.tail().begin, tail);
          EXPECT_LT(tail - layout.tail().begin, size * 128);
          EXPECT_EQ(layout.tail().end, n_flat);
        }
        const int64_t tail_begin = ShardLayout(n_flat, tail, {}, 0, size).tail().begin;
        for (int64_t i = 0; i < n_flat; ++i)
          ASSERT_EQ(owners[static_cast<size_t>(i)], i < tail_begin ? 1 : size) << i;
      }
}

TEST(ShardLayoutTest, ABucketEndsAtTheCutOrJustAfterIt) {
  const ShardLayout layout(4096, 4096, {1000, 2048}, 0, 2);
  ASSERT_EQ(layout.buckets().size(), 3u);
  EXPECT_EQ(layout.buckets()[0].end, 1024);  // the next multiple of 2 * 128
  EXPECT_EQ(layout.buckets()[1].end, 2048);
  EXPECT_EQ(layout.buckets()[2].end, 4096);
}

}  // namespace
}  // namespace ceiling
