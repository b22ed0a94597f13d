// A file written once, hashed on the way, and on disk when finish() returns.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/files.h"
#include "base/hash.h"

namespace ceiling {

// What a finished file must be found to be.
struct FileRecord {
  std::string name;  // without folder
  int64_t size_bytes = 0;
  std::string sha256;
};

class HashedFile {
 public:
  explicit HashedFile(const std::string& path) : file_(path, "wb") {}
  void write(const void* data, size_t size_bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  FileRecord finish();  // syncs and closes

 private:
  File file_;
  Sha256 hash_;
  int64_t size_bytes_ = 0;
};

FileRecord write_hashed(const std::string& path, std::string_view content);

}  // namespace ceiling
