// Keeps a checkpoint from being removed while someone reads it: readers hold a shared lock on its
// manifest, retention removes only what it can lock exclusively. Works across processes.
#pragma once
#include <optional>
#include <string>
#include <utility>

namespace ceiling {

class FolderLock {
 public:
  // Waits for a removal in progress. Holds nothing where the manifest cannot be opened or the file
  // system knows no locks.
  static FolderLock shared(const std::string& folder);
  // Nothing if somebody reads the checkpoint.
  static std::optional<FolderLock> try_exclusive(const std::string& folder);

  FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FolderLock& operator=(FolderLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FolderLock();

 private:
  explicit FolderLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace ceiling
