#include "data/byte_stream.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"

namespace ceiling {

namespace {

using namespace std::string_view_literals;

constexpr size_t kBlock = size_t{1} << 17;
constexpr int kZstdWindowLog = 27;  // 128 MiB, what zstd --long=27 writes

// The file as it lies on disk, in blocks, hashed as it passes.
class FileBlocks {
 public:
  explicit FileBlocks(const std::string& path) : file_(path, "rb"), buffer_(kBlock) { refill(); }

  const std::string& path() const { return file_.path(); }
  std::string_view rest() const { return std::string_view(buffer_.data() + start_, end_ - start_); }
  // Consumes bytes of rest(); a used-up block is replaced by the next one.
  void advance(size_t size_bytes) {
    start_ += size_bytes;
    if (start_ == end_) refill();
  }
  bool at_end() const { return start_ == end_; }
  int64_t position() const { return read_ - static_cast<int64_t>(end_ - start_); }
  std::string sha256() { return hash_.hex(); }

 private:
  void refill() {
    start_ = 0;
    end_ = file_.read(buffer_.data(), buffer_.size());
    read_ += static_cast<int64_t>(end_);
    hash_.update(buffer_.data(), end_);
  }

  File file_;
  std::vector<char> buffer_;
  size_t start_ = 0, end_ = 0;
  int64_t read_ = 0;
  Sha256 hash_;
};

class BlockStream : public ByteStream {
 public:
  explicit BlockStream(std::unique_ptr<FileBlocks> blocks) : blocks_(std::move(blocks)) {}
  int64_t file_bytes_read() const override { return blocks_->position(); }
  std::string file_sha256() override { return blocks_->sha256(); }

 protected:
  [[noreturn]] void cut(const char* what) const {
    throw Error("{}: byte {}: the file ends in the middle of the {} data: it is cut; get it again",
                blocks_->path(), blocks_->position(), what);
  }
  [[noreturn]] void damaged(const char* what, const char* reason) const {
    throw Error("{}: byte {}: the {} data are damaged ({}); get the file again", blocks_->path(),
                blocks_->position(), what, reason);
  }
  [[noreturn]] void garbage(const char* what) const {
    throw Error("{}: byte {}: the {} data end here, but the file goes on with something else",
                blocks_->path(), blocks_->position(), what);
  }
  std::unique_ptr<FileBlocks> blocks_;
};

class PlainStream final : public BlockStream {
 public:
  using BlockStream::BlockStream;
  size_t read(char* out, size_t size_bytes) override {
    const size_t size = std::min(size_bytes, blocks_->rest().size());
    std::memcpy(out, blocks_->rest().data(), size);
    blocks_->advance(size);
    return size;
  }
};

constexpr std::string_view kGzipMagic = "\x1f\x8b";

class GzipStream final : public BlockStream {
 public:
  explicit GzipStream(std::unique_ptr<FileBlocks> blocks) : BlockStream(std::move(blocks)) {
    if (inflateInit2(&state_, 15 + 16) != Z_OK) throw std::bad_alloc();
  }
  ~GzipStream() override { inflateEnd(&state_); }

  size_t read(char* out, size_t size_bytes) override {
    for (;;) {
      if (blocks_->at_end()) {
        if (inside_member_) cut("gzip");
        return 0;
      }
      if (!inside_member_ && blocks_->rest()[0] != kGzipMagic[0]) garbage("gzip");
      inside_member_ = true;
      const std::string_view in = blocks_->rest();
      state_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
      state_.avail_in = static_cast<uInt>(in.size());
      state_.next_out = reinterpret_cast<Bytef*>(out);
      state_.avail_out = static_cast<uInt>(std::min<size_t>(size_bytes, kBlock));
      const uInt room = state_.avail_out;
      const int status = inflate(&state_, Z_NO_FLUSH);
      blocks_->advance(in.size() - state_.avail_in);
      if (status == Z_STREAM_END) {
        inside_member_ = false;
        inflateReset(&state_);
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        damaged("gzip", state_.msg ? state_.msg : "unknown reason");
      }
      if (room != state_.avail_out) return room - state_.avail_out;
    }
  }

 private:
  z_stream state_{};
  bool inside_member_ = false;
};

constexpr std::string_view kZstdMagic = "\x28\xb5\x2f\xfd";

// A frame, or a skippable one (0x184D2A50 to 5F, little endian).
bool starts_zstd(std::string_view bytes) {
  return bytes.starts_with(kZstdMagic) ||
         (bytes.size() >= 4 && (static_cast<uint8_t>(bytes[0]) & 0xf0) == 0x50 &&
          bytes.substr(1, 3) == "\x2a\x4d\x18");
}

class ZstdStream final : public BlockStream {
 public:
  explicit ZstdStream(std::unique_ptr<FileBlocks> blocks)
      : BlockStream(std::move(blocks)), state_(ZSTD_createDCtx(), &ZSTD_freeDCtx) {
    if (!state_) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(state_.get(), ZSTD_d_windowLogMax, kZstdWindowLog);
  }

  size_t read(char* out, size_t size_bytes) override {
    for (;;) {
      // At the end of the file there may still be output inside the decoder.
      const bool file_ended = blocks_->at_end();
      if (file_ended && !inside_frame_) return 0;
      const std::string_view in = blocks_->rest();
      ZSTD_inBuffer input{in.data(), in.size(), 0};
      ZSTD_outBuffer output{out, size_bytes, 0};
      const bool between_frames = !inside_frame_;
      const size_t status = ZSTD_decompressStream(state_.get(), &output, &input);
      if (ZSTD_isError(status)) {
        if (between_frames && frames_ > 0 && !starts_zstd(in)) garbage("zstd");
        damaged("zstd", ZSTD_getErrorName(status));
      }
      blocks_->advance(input.pos);
      inside_frame_ = status != 0;
      frames_ += status == 0;
      if (output.pos > 0) return output.pos;
      if (file_ended && inside_frame_) cut("zstd");
    }
  }

 private:
  std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> state_;
  bool inside_frame_ = false;
  int64_t frames_ = 0;
};

// Formats that would otherwise be taken for a text that is no UTF-8.
const char* unsupported(std::string_view bytes) {
  if (bytes.starts_with("\xfd"
                        "7zXZ\0"sv))
    return "xz-compressed";
  if (bytes.starts_with("BZh")) return "bzip2-compressed";
  if (bytes.starts_with("\x04\x22\x4d\x18")) return "lz4-compressed";
  if (bytes.starts_with("PK\x03\x04")) return "a zip archive";
  return nullptr;
}

}  // namespace

std::unique_ptr<ByteStream> open_byte_stream(const std::string& path) {
  auto blocks = std::make_unique<FileBlocks>(path);
  const std::string_view start = blocks->rest();
  if (const char* format = unsupported(start))
    throw Error("{}: is {}, which ceiling does not read; write it as plain text, gzip or zstd",
                path, format);
  if (start.starts_with(kGzipMagic)) return std::make_unique<GzipStream>(std::move(blocks));
  if (starts_zstd(start)) return std::make_unique<ZstdStream>(std::move(blocks));
  return std::make_unique<PlainStream>(std::move(blocks));
}

}  // namespace ceiling
