#include "train/tensorboard.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>

#include "base/error.h"

namespace ceiling {

namespace {

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Protocol-buffer wire format: a tag is field << 3 | type (0 varint, 1 fixed64, 2 bytes, 5
// fixed32).
void varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
template <class Number>
void fixed(std::string& out, int field, Number value) {
  varint(out, static_cast<uint64_t>(field) << 3 | (sizeof(Number) == 8 ? 1 : 5));
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void bytes(std::string& out, int field, std::string_view value) {
  varint(out, static_cast<uint64_t>(field) << 3 | 2);
  varint(out, value.size());
  out += value;
}

uint32_t masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace

uint32_t crc32c(std::string_view data) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const char byte : data)
    crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

TensorboardWriter::TensorboardWriter(const std::string& folder) {
  fs::create_directories(folder);
  const std::string name = fmt::format("{}/events.out.tfevents.{}.{}", folder,
                                       static_cast<int64_t>(wall_time()), ::getpid());
  file_ = std::make_unique<File>(name, "ab");
  event(0, 3, "brain.Event:2");  // file_version opens every event file
}

void TensorboardWriter::event(int64_t step, int field, std::string_view payload) {
  std::string message;
  fixed(message, 1, wall_time());
  varint(message, 2 << 3 | 0);
  varint(message, static_cast<uint64_t>(step));
  bytes(message, field, payload);
  const uint64_t size = message.size();
  const std::string_view header(reinterpret_cast<const char*>(&size), sizeof size);
  const uint32_t header_crc = masked(crc32c(header)), body_crc = masked(crc32c(message));
  file_->write(header);
  file_->write(&header_crc, sizeof header_crc);
  file_->write(message);
  file_->write(&body_crc, sizeof body_crc);
}

void TensorboardWriter::scalar(std::string_view tag, int64_t step, double value) {
  std::string entry, summary;
  bytes(entry, 1, tag);
  fixed(entry, 2, static_cast<float>(value));
  bytes(summary, 1, entry);
  event(step, 5, summary);
}

void TensorboardWriter::text(std::string_view tag, int64_t step, std::string_view value) {
  // A string tensor with the "text" plugin's name, which is how TensorBoard tells text from
  // histograms.
  std::string plugin_data, metadata, shape, dimension, tensor, entry, summary;
  bytes(plugin_data, 1, "text");
  bytes(metadata, 1, plugin_data);
  varint(dimension, 1 << 3 | 0);
  varint(dimension, 1);
  bytes(shape, 2, dimension);
  varint(tensor, 1 << 3 | 0);
  varint(tensor, 7);  // DT_STRING
  bytes(tensor, 2, shape);
  bytes(tensor, 8, value);
  bytes(entry, 1, tag);
  bytes(entry, 8, tensor);
  bytes(entry, 9, metadata);
  bytes(summary, 1, entry);
  event(step, 5, summary);
}

void TensorboardWriter::flush() { file_->flush(); }

}  // namespace ceiling
