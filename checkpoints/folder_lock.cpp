#include "checkpoints/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "checkpoints/manifest.h"

namespace ceiling {

namespace {
int open_manifest(const std::string& folder) {
  return ::open((folder + "/" + kCheckpointManifest).c_str(), O_RDONLY | O_CLOEXEC);
}
}  // namespace

FolderLock FolderLock::shared(const std::string& folder) {
  const int manifest = open_manifest(folder);
  while (manifest >= 0 && ::flock(manifest, LOCK_SH) != 0 && errno == EINTR) {
  }
  return FolderLock(manifest);
}

std::optional<FolderLock> FolderLock::try_exclusive(const std::string& folder) {
  FolderLock lock(open_manifest(folder));
  const bool busy = lock.descriptor_ >= 0 && ::flock(lock.descriptor_, LOCK_EX | LOCK_NB) != 0 &&
                    errno == EWOULDBLOCK;
  if (busy) return std::nullopt;
  return lock;
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace ceiling
