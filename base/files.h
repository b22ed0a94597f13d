// Files and folders with errors that name the path, and writes that either happen wholly or not at
// all.
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace ceiling {

namespace fs = std::filesystem;

// An open file; every failure is an Error with the path and the system's reason.
class File {
 public:
  File(const std::string& path, const char* mode);  // fopen modes
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  size_t read(void* data, size_t size_bytes);  // bytes read; 0 at the end
  void write(const void* data, size_t size_bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void seek(int64_t offset);
  void flush();  // to the system, not to the disk
  void sync();   // flush, fsync
  void close();  // reports what the destructor would swallow
  const std::string& path() const { return path_; }
  int descriptor() const;

 private:
  std::string path_;
  std::FILE* handle_;
};

std::string read_file(const std::string& path);

// Writes a temporary file beside `path`, syncs it, renames it, syncs the folder.
void write_file_atomic(const std::string& path, std::string_view content);

void sync_folder(const std::string& path);

// A folder that appears under its final name only by commit(): written as `<path>.tmp-<pid>`, every
// file synced, renamed. Without commit() the destructor removes it. Also removes what a killed
// process left under the same name pattern.
class PendingFolder {
 public:
  explicit PendingFolder(const std::string& final_path);
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;
  const std::string& path() const { return pending_; }  // write here
  // Error if the final path exists, unless `replace`: then the old folder goes once the new one
  // stands in its place.
  void commit(bool replace = false);

 private:
  std::string final_, pending_;
  bool committed_ = false;
};

// "~/x" and "~" are the home folder; the rest stays as it is.
std::string expand_home(const std::string& path);

uint64_t free_bytes(
    const std::string& path);  // of the file system that holds the nearest existing parent

// Throws Error unless a file can be created in `path` (the folder is made if missing).
void require_writable_folder(const std::string& path, const std::string& what);

}  // namespace ceiling
