// How a flat buffer is cut for ZeRO-1. The buffer is a row of buckets, each communicated at once;
// of every bucket, rank r owns the r-th of `size` equal slices. What does not divide, and what must
// be whole everywhere, is the tail: every rank owns all of it.
//
//   [ bucket 0: | slice 0 | slice 1 | ] [ bucket 1: | slice 0 | slice 1 | ] ... [ tail ]
#pragma once
#include <cstdint>
#include <vector>

namespace ceiling {

// Elements [begin, end) of the flat buffer.
struct FlatRange {
  int64_t begin = 0, end = 0;
  int64_t length() const { return end - begin; }
};

// A range that this rank owns, and where it lies in the buffers that hold only what the rank owns.
struct OwnedPiece {
  FlatRange range;
  int64_t offset = 0;
};

class ShardLayout {
 public:
  // One rank, or replicas: everything is owned, in one piece.
  explicit ShardLayout(int64_t n_flat);
  // `cuts`: ascending positions in (0, tail_begin) where a bucket should end. A bucket ends at the
  // next multiple of size * 128 elements, so that slices stay aligned for vector loads.
  ShardLayout(int64_t n_flat, int64_t tail_begin, const std::vector<int64_t>& cuts, int64_t rank,
              int64_t size);

  const std::vector<FlatRange>& buckets() const { return buckets_; }
  FlatRange tail() const { return tail_; }
  FlatRange slice(const FlatRange& bucket, int64_t rank) const;  // of a bucket
  // What this rank owns, by offset: its slice of each bucket, then the tail.
  const std::vector<OwnedPiece>& pieces() const { return pieces_; }
  int64_t n_owned() const { return n_owned_; }  // elements, tail included
  bool whole() const { return buckets_.empty(); }

 private:
  void own(FlatRange range);
  int64_t size_ = 1;
  std::vector<FlatRange> buckets_;
  FlatRange tail_;
  std::vector<OwnedPiece> pieces_;
  int64_t n_owned_ = 0;
};

}  // namespace ceiling
