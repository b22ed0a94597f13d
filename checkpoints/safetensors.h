// The safetensors container: 8-byte header length, JSON header, raw little-endian row-major data.
// Read strictly: a file that is not exactly what its header says is refused, with the tensor and
// the sizes in the message.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "checkpoints/hashed_file.h"

namespace ceiling {

struct NamedTensor {
  std::string name;
  at::Tensor value;
};

// A tensor that is made when its turn to be written comes.
struct TensorSource {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::function<at::Tensor()> value;  // any device, dtype and strides; converted to `dtype`
};

using SafetensorsMetadata = std::map<std::string, std::string>;

// Writes and syncs `path`. Tensors lie in the order given, but larger elements first, so that each
// is aligned to its element. Error on a dtype the format does not name, or a name given twice.
FileRecord write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors,
                             const SafetensorsMetadata& metadata = {});
FileRecord write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                             const SafetensorsMetadata& metadata = {});

const char* safetensors_dtype(at::ScalarType dtype);  // "F32"; Error for what the format lacks

class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    at::ScalarType dtype;
    std::vector<int64_t> shape;
    int64_t begin, size_bytes;  // in the file
    int64_t numel() const;
  };

  explicit SafetensorsFile(const std::string& path);  // checks header and size; reads no tensor
  const std::string& path() const { return file_.path(); }
  const std::vector<Entry>& entries() const { return entries_; }  // by offset
  const SafetensorsMetadata& metadata() const { return metadata_; }
  const Entry* find(const std::string& name) const;
  const Entry& at(const std::string& name) const;  // Error if missing
  void require_shape(const std::string& name, const std::vector<int64_t>& shape) const;

  // On the CPU, in the dtype of the file.
  at::Tensor read(const std::string& name) const;
  // Rows [begin, end) of the first dimension.
  at::Tensor read_rows(const std::string& name, int64_t begin, int64_t end) const;
  // Elements [begin, end) of the row-major data as a 1-D tensor.
  at::Tensor read_flat(const std::string& name, int64_t begin, int64_t end) const;
  // The whole tensor into `value` (any device, dtype and strides; same shape, else an Error).
  void read_into(const std::string& name, at::Tensor value) const;

 private:
  void parse(const std::string& header, int64_t data_begin, int64_t file_bytes);
  void read_bytes(int64_t begin, int64_t size_bytes, void* out) const;
  File file_;
  std::vector<Entry> entries_;
  std::map<std::string, size_t> index_;
  SafetensorsMetadata metadata_;
};

}  // namespace ceiling
