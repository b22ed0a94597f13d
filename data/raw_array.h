// An uncompressed one-dimensional HDF5 dataset, read straight from its file. HDF5 reads a whole
// chunk to give one window of it; training reads small windows at random places, so that costs 100
// times the bytes. Here a chunk is read whole once, to check its Fletcher32 sum, and afterwards a
// window costs one pread.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/hdf5.h"

namespace ceiling {

// A file open for reading at given offsets.
class RawFile {
 public:
  // Error unless the file is there and has `size_bytes`.
  RawFile(const std::string& path, int64_t size_bytes);
  RawFile(RawFile&& other) noexcept;
  RawFile& operator=(RawFile&&) = delete;
  ~RawFile();
  const std::string& path() const { return path_; }
  void read(int64_t offset, void* out, int64_t n_bytes) const;

 private:
  std::string path_;
  int descriptor_;
};

class RawArray {
 public:
  // Learns where the elements of `name` lie. Error unless it is 1-D, of `n` elements of the
  // unsigned little-endian type of `item_bytes`, stored contiguously or in chunks, with no filter
  // but Fletcher32, inside `file_bytes`.
  RawArray(hid_t file, const std::string& path, const char* name, int64_t item_bytes, int64_t n,
           int64_t file_bytes);
  int64_t size() const { return n_; }
  int64_t item_bytes() const { return item_bytes_; }
  int64_t chunk_items() const { return chunk_items_; }
  // Elements [first, first + n) into `out`, as stored.
  void read(const RawFile& file, int64_t first, int64_t n, void* out);

 private:
  void check_chunk(const RawFile& file, int64_t chunk);

  std::string name_;
  int64_t item_bytes_, n_;
  int64_t chunk_items_ = 0;
  bool has_checksum_ = false;
  std::vector<int64_t> chunk_offset_;  // in the file
  std::vector<bool> chunk_checked_;
};

// The sum that HDF5's Fletcher32 filter appends to a chunk; an even number of bytes.
uint32_t fletcher32(std::span<const uint8_t> bytes);

}  // namespace ceiling
