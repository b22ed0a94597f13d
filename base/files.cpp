#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/stop.h"
#include "base/text.h"

namespace ceiling {

namespace {
std::string reason() { return std::strerror(errno); }
}  // namespace

File::File(const std::string& path, const char* mode)
    : path_(path), handle_(std::fopen(path.c_str(), (std::string(mode) + "e").c_str())) {
  if (!handle_) throw Error("{}: cannot open: {}", path, reason());
  struct stat info;
  if (::fstat(::fileno(handle_), &info) == 0 && S_ISDIR(info.st_mode)) {
    std::fclose(handle_);
    throw Error("{}: is a folder, a file is needed", path);
  }
}

File::~File() {
  if (handle_) std::fclose(handle_);
}

size_t File::read(void* data, size_t size_bytes) {
  const size_t n = std::fread(data, 1, size_bytes, handle_);
  if (n == 0 && std::ferror(handle_)) throw Error("{}: cannot read: {}", path_, reason());
  return n;
}

void File::write(const void* data, size_t size_bytes) {
  if (std::fwrite(data, 1, size_bytes, handle_) != size_bytes)
    throw Error("{}: cannot write {}: {}", path_, format_bytes(static_cast<double>(size_bytes)),
                reason());
}

void File::seek(int64_t offset) {
  if (::fseeko(handle_, offset, SEEK_SET) != 0) throw Error("{}: cannot seek: {}", path_, reason());
}

int File::descriptor() const { return ::fileno(handle_); }

void File::flush() {
  if (std::fflush(handle_) != 0) throw Error("{}: cannot write: {}", path_, reason());
}

void File::sync() {
  if (std::fflush(handle_) != 0 || ::fsync(::fileno(handle_)) != 0)
    throw Error("{}: cannot write to disk: {}", path_, reason());
}

void File::close() {
  std::FILE* handle = std::exchange(handle_, nullptr);
  if (handle && std::fclose(handle) != 0) throw Error("{}: cannot write: {}", path_, reason());
}

std::string read_file(const std::string& path) {
  File file(path, "rb");
  std::string content;
  char buffer[1 << 16];
  while (const size_t n = file.read(buffer, sizeof buffer)) content.append(buffer, n);
  return content;
}

void write_file_atomic(const std::string& path, std::string_view content) {
  const std::string pending = path + ".tmp-" + std::to_string(::getpid());
  try {
    File file(pending, "wb");
    file.write(content);
    file.sync();
    file.close();
    if (::rename(pending.c_str(), path.c_str()) != 0)
      throw Error("{}: cannot rename to it from {}: {}", path, pending, reason());
  } catch (...) {
    ::unlink(pending.c_str());
    throw;
  }
  sync_folder(fs::path(path).parent_path().string());
}

void sync_folder(const std::string& path) {
  const int folder = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;  // not readable as a folder: nothing more can be done
  ::fsync(folder);
  ::close(folder);
}

PendingFolder::PendingFolder(const std::string& final_path)
    : final_(fs::path(final_path).lexically_normal().string()) {
  while (final_.size() > 1 && final_.back() == '/') final_.pop_back();
  pending_ = final_ + ".tmp-" + std::to_string(::getpid());
  const fs::path parent = fs::path(final_).has_parent_path() ? fs::path(final_).parent_path() : ".";
  std::error_code failure;
  fs::create_directories(parent, failure);
  if (failure) throw Error("{}: cannot create the folder: {}", parent.string(), failure.message());
  // What a killed process left: same name, a process id that no longer lives.
  const std::string prefix = fs::path(final_).filename().string() + ".tmp-";
  for (const auto& entry : fs::directory_iterator(parent, failure)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(prefix, 0) != 0) continue;
    const auto owner = parse_int(name.substr(prefix.size()));
    // EPERM: it lives, and belongs to another user.
    const bool alive = owner && *owner > 0 && *owner <= INT32_MAX && *owner != ::getpid() &&
                       (::kill(static_cast<pid_t>(*owner), 0) == 0 || errno == EPERM);
    if (!alive) fs::remove_all(entry.path(), failure);
  }
  const std::string registered = fs::absolute(pending_).string();
  stop::register_pending(registered.c_str());  // before there is something that could be left
  if (fs::create_directory(pending_, failure)) return;
  stop::unregister_pending(registered.c_str());
  throw Error("{}: cannot create the folder: {}", pending_, failure.message());
}

PendingFolder::~PendingFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(pending_, ignored);
  stop::unregister_pending(fs::absolute(pending_).c_str());  // once nothing is left
}

void PendingFolder::commit(bool replace) {
  for (const auto& entry : fs::recursive_directory_iterator(pending_)) {
    if (entry.is_directory()) {
      sync_folder(entry.path().string());
      continue;
    }
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    const bool synced = file >= 0 && ::fsync(file) == 0;
    const std::string why = reason();
    if (file >= 0) ::close(file);
    if (!synced) throw Error("{}: cannot write to disk: {}", entry.path().string(), why);
  }
  sync_folder(pending_);
  const bool exists = fs::exists(final_);
  if (exists && !replace) throw Error("{}: exists already", final_);
  // Swapping the names leaves no moment without a whole folder under the final one. Where the file
  // system cannot swap, the old folder steps aside first.
  std::string old;
  if (exists) {
    const bool swapped =
        ::renameat2(AT_FDCWD, pending_.c_str(), AT_FDCWD, final_.c_str(), RENAME_EXCHANGE) == 0;
    old = swapped ? pending_ : final_ + ".old.tmp-" + std::to_string(::getpid());
    if (!swapped && ::rename(final_.c_str(), old.c_str()) != 0)
      throw Error("{}: cannot be set aside: {}", final_, reason());
    committed_ = swapped;
  }
  if (!committed_ && ::rename(pending_.c_str(), final_.c_str()) != 0)
    throw Error("{}: cannot rename to it from {}: {}", final_, pending_, reason());
  committed_ = true;
  sync_folder(fs::path(final_).parent_path().string());
  std::error_code ignored;
  if (exists) fs::remove_all(old, ignored);
}

std::string expand_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (!home || path.empty() || path[0] != '~' || (path.size() > 1 && path[1] != '/')) return path;
  return home + path.substr(1);
}

uint64_t free_bytes(const std::string& path) {
  fs::path at = fs::absolute(path);
  std::error_code failure;
  while (!fs::exists(at, failure) && at.has_parent_path() && at != at.parent_path())
    at = at.parent_path();
  const fs::space_info space = fs::space(at, failure);
  return failure ? UINT64_MAX : space.available;
}

void require_writable_folder(const std::string& path, const std::string& what) {
  std::error_code failure;
  fs::create_directories(path, failure);
  if (failure) throw Error("{}: cannot create {}: {}", path, what, failure.message());
  const std::string probe = path + "/.write-test.tmp-" + std::to_string(::getpid());
  const int file = ::open(probe.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (file < 0) throw Error("{}: {} is not writable: {}", path, what, reason());
  ::close(file);
  ::unlink(probe.c_str());
}

}  // namespace ceiling
