#include "data/raw_array.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

RawFile::RawFile(const std::string& path, int64_t size_bytes)
    : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) throw Error("{}: cannot open the shard: {}", path, std::strerror(errno));
  struct stat info {};
  const bool known = ::fstat(descriptor_, &info) == 0;
  if (known && info.st_size == size_bytes) return;
  ::close(descriptor_);
  throw Error(
      "{}: file is {} bytes, the manifest says {}: truncated or changed; restore or prepare it "
      "again",
      path, known ? info.st_size : 0, size_bytes);
}

RawFile::RawFile(RawFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

RawFile::~RawFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RawFile::read(int64_t offset, void* out, int64_t n_bytes) const {
  auto* to = static_cast<uint8_t*>(out);
  while (n_bytes > 0) {
    const ssize_t n = ::pread(descriptor_, to, static_cast<size_t>(n_bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error("{}: cannot read at byte {}: {}", path_, offset, std::strerror(errno));
    if (n == 0) throw Error("{}: file ends at byte {}, it was cut while in use", path_, offset);
    to += n, offset += n, n_bytes -= n;
  }
}

RawArray::RawArray(hid_t file, const std::string& path, const char* name, int64_t item_bytes,
                   int64_t n, int64_t file_bytes)
    : name_(name), item_bytes_(item_bytes), n_(n) {
  const hdf5::Handle dataset(H5Dopen2(file, name, H5P_DEFAULT), H5Dclose);
  if (!dataset.is_open())
    throw Error("{}: {} is missing or damaged ({})", path, name, hdf5::reason());
  const hdf5::Handle type(H5Dget_type(dataset), H5Tclose);
  const hid_t wanted = item_bytes == 2   ? H5T_STD_U16LE
                       : item_bytes == 4 ? H5T_STD_U32LE
                                         : H5T_STD_U64LE;
  if (H5Tequal(type, wanted) <= 0)
    throw Error("{}: {} is not stored as uint{}, little endian", path, name, 8 * item_bytes);
  const hdf5::Handle space(H5Dget_space(dataset), H5Sclose);
  hsize_t extent = 0;
  if (H5Sget_simple_extent_ndims(space) != 1 ||
      H5Sget_simple_extent_dims(space, &extent, nullptr) < 0)
    throw Error("{}: {} is not one-dimensional", path, name);
  if (extent != static_cast<hsize_t>(n))
    throw Error("{}: {} has {} elements, the manifest says {}", path, name, extent, n);
  if (n > file_bytes / item_bytes)
    throw Error("{}: {} claims {} elements, more than the file can hold", path, name, n);

  const hdf5::Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  int64_t chunk_bytes = n * item_bytes;
  if (H5Pget_layout(creation) == H5D_CONTIGUOUS) {
    chunk_items_ = std::max<int64_t>(n, 1);
    if (n > 0) chunk_offset_.push_back(static_cast<int64_t>(H5Dget_offset(dataset)));
  } else if (H5Pget_layout(creation) == H5D_CHUNKED) {
    for (int i = 0; i < H5Pget_nfilters(creation); ++i) {
      unsigned flags = 0;
      size_t no_values = 0;
      const H5Z_filter_t filter =
          H5Pget_filter2(creation, i, &flags, &no_values, nullptr, 0, nullptr, nullptr);
      if (filter != H5Z_FILTER_FLETCHER32)
        throw Error(
            "{}: {} uses HDF5 filter {}; only Fletcher32 is read: write it without compression",
            path, name, static_cast<int>(filter));
      has_checksum_ = true;
    }
    hsize_t chunk = 0;
    H5Pget_chunk(creation, 1, &chunk);
    chunk_items_ = static_cast<int64_t>(chunk);
    chunk_bytes = chunk_items_ * item_bytes + (has_checksum_ ? 4 : 0);
    for (hsize_t first = 0; first < extent; first += chunk) {
      unsigned filter_mask = 0;
      haddr_t address = HADDR_UNDEF;
      hsize_t size = 0;
      if (H5Dget_chunk_info_by_coord(dataset, &first, &filter_mask, &address, &size) < 0)
        throw Error("{}: {} is damaged: {}", path, name, hdf5::reason());
      if (address == HADDR_UNDEF || size != static_cast<hsize_t>(chunk_bytes) || filter_mask != 0)
        throw Error("{}: {} has no complete chunk at element {}", path, name, first);
      chunk_offset_.push_back(static_cast<int64_t>(address));
    }
  } else {
    throw Error("{}: {} is stored neither contiguously nor in chunks", path, name);
  }
  for (const int64_t offset : chunk_offset_)
    if (offset < 0 || chunk_bytes > file_bytes || offset > file_bytes - chunk_bytes)
      throw Error("{}: {} reaches past the end of the file", path, name);
  chunk_checked_.assign(chunk_offset_.size(), !has_checksum_);
}

void RawArray::read(const RawFile& file, int64_t first, int64_t n, void* out) {
  auto* to = static_cast<uint8_t*>(out);
  while (n > 0) {
    const int64_t chunk = first / chunk_items_, inside = first % chunk_items_;
    const int64_t run = std::min(n, chunk_items_ - inside);
    if (!chunk_checked_[static_cast<size_t>(chunk)]) check_chunk(file, chunk);
    file.read(chunk_offset_[static_cast<size_t>(chunk)] + inside * item_bytes_, to,
              run * item_bytes_);
    to += run * item_bytes_, first += run, n -= run;
  }
}

void RawArray::check_chunk(const RawFile& file, int64_t chunk) {
  const auto n_bytes = static_cast<size_t>(chunk_items_ * item_bytes_);
  std::vector<uint8_t> bytes(n_bytes + 4);
  file.read(chunk_offset_[static_cast<size_t>(chunk)], bytes.data(),
            static_cast<int64_t>(bytes.size()));
  uint32_t stored = 0;
  std::memcpy(&stored, bytes.data() + n_bytes, 4);
  if (stored != fletcher32({bytes.data(), n_bytes}))
    throw Error(
        "{}: checksum of {} differs in elements {} to {}: the file is damaged; restore or prepare "
        "it again",
        file.path(), name_, chunk * chunk_items_, std::min(n_, (chunk + 1) * chunk_items_) - 1);
  chunk_checked_[static_cast<size_t>(chunk)] = true;
}

uint32_t fletcher32(std::span<const uint8_t> bytes) {
  // 64-bit sums of big-endian 16-bit words need no reduction within 2^22 words.
  constexpr size_t kRun = size_t{1} << 22;
  uint64_t sum1 = 0, sum2 = 0;
  for (size_t at = 0; at + 1 < bytes.size();) {
    const size_t end = std::min(bytes.size() - 1, at + 2 * kRun);
    for (; at < end; at += 2) {
      sum1 += static_cast<uint64_t>(bytes[at]) << 8 | bytes[at + 1];
      sum2 += sum1;
    }
    // HDF5 folds carries instead of taking a remainder, so a multiple of 65535 other than 0 stays
    // 65535.
    sum1 = sum1 == 0 ? 0 : (sum1 - 1) % 65535 + 1;
    sum2 = sum2 == 0 ? 0 : (sum2 - 1) % 65535 + 1;
  }
  return static_cast<uint32_t>(sum2 << 16 | sum1);
}

}  // namespace ceiling
