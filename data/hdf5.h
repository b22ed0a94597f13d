// The HDF5 C library, made safe for us: closed by scope, one lock around its global state, silent
// (errors become Error), no file locks (reading works on read-only folders and beside a process
// that holds a lock). Files are written in the 1.10 format, in which every piece of metadata
// carries a checksum.
#pragma once
#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"

namespace ceiling::hdf5 {

// Not every build of the library is safe for threads (Debian's is): hold this for every sequence of
// calls.
std::unique_lock<std::mutex> lock();

// Innermost reason of the last failure, as HDF5 words it.
std::string reason();

// An identifier and the function that closes it.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  bool is_open() const { return id_ >= 0; }
  operator hid_t() const { return id_; }
  // Closes now and tells whether all of it reached the file.
  bool close() { return close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

Handle create_file(const std::string& path);               // Error if it exists or cannot be made
Handle open_file(const std::string& path, bool writable);  // Error with the reason

void write_attribute(hid_t object, const std::string& path, const char* name, int64_t value);
void write_attribute(hid_t object, const std::string& path, const char* name,
                     const std::string& value);
// Error if it is missing or of another type.
int64_t read_int_attribute(hid_t object, const std::string& path, const char* name);
std::string read_text_attribute(hid_t object, const std::string& path, const char* name);

// One-dimensional, growing, checksummed (Fletcher32) per chunk; no compression.
Handle create_dataset(hid_t file, const std::string& path, const char* name, hid_t type,
                      hsize_t chunk_elements);
void append(hid_t dataset, const std::string& path, hid_t memory_type, hsize_t first,
            const void* data, hsize_t n);

}  // namespace ceiling::hdf5
