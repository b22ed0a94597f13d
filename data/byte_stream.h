// The bytes of a file, decompressed on the way: plain, gzip (.gz, .dz) or zstd, recognised by the
// first bytes and not by the name. All members and frames are read.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace ceiling {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Decompressed bytes; 0 at the end. Error with file and byte position where the file is cut,
  // damaged or followed by something else.
  virtual size_t read(char* out, size_t size_bytes) = 0;
  virtual int64_t file_bytes_read() const = 0;
  // SHA-256 of the file as it lies on disk; call once, at the end.
  virtual std::string file_sha256() = 0;
};

// Error if the file cannot be read or is of a compression that is not supported (xz, bzip2, lz4,
// zip).
std::unique_ptr<ByteStream> open_byte_stream(const std::string& path);

}  // namespace ceiling
