#include "parallel/shard_layout.h"

#include <algorithm>

namespace ceiling {

namespace {
constexpr int64_t kAlign = 128;  // elements: 256 bytes of bf16
}

ShardLayout::ShardLayout(int64_t n_flat) : tail_{0, n_flat} { own(tail_); }

ShardLayout::ShardLayout(int64_t n_flat, int64_t tail_begin, const std::vector<int64_t>& cuts,
                         int64_t rank, int64_t size)
    : size_(size) {
  const int64_t unit = size * kAlign, last = tail_begin / unit * unit;
  int64_t begin = 0;
  const auto close = [&](int64_t end) {
    if (end <= begin) return;
    buckets_.push_back({begin, end});
    begin = end;
  };
  for (const int64_t cut : cuts) close(std::min((cut + unit - 1) / unit * unit, last));
  close(last);
  for (const FlatRange& bucket : buckets_) own(slice(bucket, rank));
  tail_ = {last, n_flat};
  own(tail_);
}

FlatRange ShardLayout::slice(const FlatRange& bucket, int64_t rank) const {
  const int64_t length = bucket.length() / size_;
  return {bucket.begin + rank * length, bucket.begin + (rank + 1) * length};
}

void ShardLayout::own(FlatRange range) {
  if (range.length() == 0) return;
  pieces_.push_back({range, n_owned_});
  n_owned_ += range.length();
}

}  // namespace ceiling
