// TensorBoard event files: TFRecord framing around hand-encoded Event messages
// (tensorflow/core/util/event.proto).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/files.h"

namespace ceiling {

class TensorboardWriter {
 public:
  explicit TensorboardWriter(const std::string& folder);  // one new file per process
  void scalar(std::string_view tag, int64_t step, double value);
  void text(std::string_view tag, int64_t step, std::string_view value);
  void flush();

 private:
  void event(int64_t step, int field, std::string_view payload);
  std::unique_ptr<File> file_;
};

uint32_t crc32c(std::string_view bytes);  // Castagnoli, as TFRecord wants

}  // namespace ceiling
