#include "checkpoints/hashed_file.h"

#include <algorithm>

namespace ceiling {

void HashedFile::write(const void* data, size_t size_bytes) {
  constexpr size_t kBlock = size_t{1} << 20;  // hashed, then written while still in the cache
  const char* bytes = static_cast<const char*>(data);
  for (size_t done = 0; done < size_bytes; done += kBlock) {
    const size_t n = std::min(kBlock, size_bytes - done);
    hash_.update(bytes + done, n);
    file_.write(bytes + done, n);
  }
  size_bytes_ += static_cast<int64_t>(size_bytes);
}

FileRecord HashedFile::finish() {
  file_.sync();
  file_.close();
  return {fs::path(file_.path()).filename().string(), size_bytes_, hash_.hex()};
}

FileRecord write_hashed(const std::string& path, std::string_view content) {
  HashedFile file(path);
  file.write(content);
  return file.finish();
}

}  // namespace ceiling
