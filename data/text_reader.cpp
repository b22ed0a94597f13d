#include "data/text_reader.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "data/byte_stream.h"
#include "data/json_line.h"
#include "data/text_files.h"

namespace ceiling {

namespace {

constexpr size_t kReadBytes = size_t{1} << 17;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

// The documents of one file.
class FileReader {
 public:
  FileReader(const std::string& path, const TextOptions& options, int64_t* n_replaced)
      : path_(path),
        options_(options),
        n_replaced_(n_replaced),
        jsonl_(is_jsonl(path)),
        bytes_(open_byte_stream(path)) {
    while (buffer_.size() < kByteOrderMark.size() && fill()) {
    }
    if (buffer_.starts_with(kByteOrderMark)) start_ = kByteOrderMark.size();
  }

  bool next(std::string& text) { return jsonl_ ? next_line(text) : next_part(text); }
  ByteStream& bytes() const { return *bytes_; }

 private:
  bool next_line(std::string& text) {
    std::string_view line;
    do {
      if (!next_piece("\n", line)) return false;
      ++line_;
    } while (is_blank(line));
    std::string repaired;
    if (const auto bad = invalid_utf8(line)) {
      if (!options_.replace_invalid)
        refuse_utf8(line_, fmt::format(", byte {} of the line", *bad + 1));
      repaired = repair_utf8(line, n_replaced_);
      line = repaired;
    }
    try {
      json_line_text(line, options_.text_key, text,
                     options_.replace_invalid ? n_replaced_ : nullptr);
    } catch (const JsonLineError& problem) {
      throw Error("{}:{}: {} (byte {} of the line)", path_, line_, problem.what(), problem.at + 1);
    }
    return true;
  }

  bool next_part(std::string& text) {
    std::string_view part;
    if (!next_piece(options_.document_separator, part)) return false;
    const int64_t first_line = line_ + 1;
    line_ +=
        std::count(part.begin(), part.end(), '\n') +
        std::count(options_.document_separator.begin(), options_.document_separator.end(), '\n');
    if (const auto bad = invalid_utf8(part)) {
      if (!options_.replace_invalid)
        refuse_utf8(first_line + std::count(part.begin(),
                                            part.begin() + static_cast<std::ptrdiff_t>(*bad), '\n'),
                    "");
      text = repair_utf8(part, n_replaced_);
    } else {
      text = part;
    }
    return true;
  }

  [[noreturn]] void refuse_utf8(int64_t line, const std::string& place) const {
    throw Error(
        "{}:{}: is no valid UTF-8{}; convert the file (iconv), or let --invalid-utf8 replace write "
        "U+FFFD in place of "
        "what is malformed",
        path_, line, place);
  }

  // The bytes up to `end` (none: up to the end of the file), which is dropped; false when nothing
  // is left. The view lives until the next call.
  bool next_piece(std::string_view end, std::string_view& piece) {
    size_t searched = start_;
    for (;;) {
      const size_t found = end.empty() ? std::string::npos : buffer_.find(end, searched);
      if (found != std::string::npos) {
        piece = std::string_view(buffer_).substr(start_, found - start_);
        start_ = found + end.size();
        return true;
      }
      if (static_cast<int64_t>(buffer_.size() - start_) > options_.max_document_bytes)
        refuse_length();
      const size_t overlap = end.empty() ? 0 : end.size() - 1;
      buffer_.erase(0, start_);
      start_ = 0;
      searched = buffer_.size() - std::min(buffer_.size(), overlap);
      if (fill()) continue;
      piece = buffer_;
      start_ = buffer_.size();
      return !piece.empty();
    }
  }

  [[noreturn]] void refuse_length() const {
    throw Error(
        "{}:{}: a document is longer than {}; {}raise --max-document-bytes", path_, line_ + 1,
        format_bytes(static_cast<double>(options_.max_document_bytes)),
        jsonl_ ? "" : "split the text with --document-separator (data.document_separator), or ");
  }

  // More bytes at the end of the buffer, with the line ends of a text made LF; false at the end of
  // the file.
  bool fill() {
    const size_t before = buffer_.size();
    buffer_.resize(before + kReadBytes);
    const size_t size = bytes_->read(buffer_.data() + before, kReadBytes);
    buffer_.resize(before + size);
    if (!jsonl_) normalise_line_ends(before);
    return size > 0;
  }

  void normalise_line_ends(size_t from) {
    if (!after_cr_ && buffer_.find('\r', from) == std::string::npos) return;
    size_t out = from;
    for (size_t in = from; in < buffer_.size(); ++in) {
      const char byte = buffer_[in];
      const bool is_second_half = after_cr_ && byte == '\n';  // its CR has become the LF
      after_cr_ = byte == '\r';
      if (!is_second_half) buffer_[out++] = after_cr_ ? '\n' : byte;
    }
    buffer_.resize(out);
  }

  std::string path_;
  const TextOptions& options_;
  int64_t* n_replaced_;
  bool jsonl_;
  std::unique_ptr<ByteStream> bytes_;
  std::string buffer_;
  size_t start_ = 0;  // of what has not been handed out
  int64_t line_ = 0;  // lines handed out
  bool after_cr_ = false;
};

class FileStream final : public DocumentStream {
 public:
  FileStream(const std::vector<std::string>& paths, const TextOptions& options)
      : paths_(paths), options_(options) {}

  bool next(std::string& text) override {
    for (;;) {
      if (!file_) {
        if (next_path_ == paths_.size()) return false;
        file_.emplace(paths_[next_path_++], options_, &n_replaced_);
      }
      if (file_->next(text)) return true;
      finish_file();
    }
  }

  int64_t bytes_done() const override {
    return bytes_done_ + (file_ ? file_->bytes().file_bytes_read() : 0);
  }
  int64_t n_replaced() const override { return n_replaced_; }
  nlohmann::json provenance() override { return {{"files", files_}}; }

 private:
  void finish_file() {
    const std::string& path = paths_[next_path_ - 1];
    const int64_t size = file_->bytes().file_bytes_read();
    int64_t ignored = 0;  // a name need not be UTF-8, but JSON must
    files_.push_back({{"path", repair_utf8(path, &ignored)},
                      {"size_bytes", size},
                      {"sha256", file_->bytes().file_sha256()}});
    bytes_done_ += size;
    file_.reset();
  }

  const std::vector<std::string>& paths_;
  const TextOptions& options_;
  std::optional<FileReader> file_;
  size_t next_path_ = 0;
  int64_t bytes_done_ = 0, n_replaced_ = 0;
  nlohmann::json files_ = nlohmann::json::array();
};

class FileSource final : public TextSource {
 public:
  FileSource(const std::vector<std::string>& inputs, const TextOptions& options)
      : options_(options), files_(find_text_files(inputs)) {
    for (const std::string& path : files_.paths)
      size_bytes_ += static_cast<int64_t>(fs::file_size(path));
  }
  std::unique_ptr<DocumentStream> open() const override {
    return std::make_unique<FileStream>(files_.paths, options_);
  }
  int64_t size_bytes() const override { return size_bytes_; }
  std::string description() const override {
    return fmt::format(
        "{} file{} ({}){}", files_.paths.size(), files_.paths.size() == 1 ? "" : "s",
        format_bytes(static_cast<double>(size_bytes_)),
        files_.n_skipped ? fmt::format(", {} others skipped", files_.n_skipped) : "");
  }

 private:
  TextOptions options_;
  TextFiles files_;
  int64_t size_bytes_ = 0;
};

}  // namespace

std::unique_ptr<TextSource> file_source(const std::vector<std::string>& inputs,
                                        const TextOptions& options) {
  return std::make_unique<FileSource>(inputs, options);
}

std::string unescape(const std::string& text) {
  std::string plain;
  for (size_t at = 0; at < text.size(); ++at) {
    static constexpr std::string_view kNames = "ntr\\", kValues = "\n\t\r\\";
    const size_t escape =
        text[at] == '\\' && at + 1 < text.size() ? kNames.find(text[at + 1]) : kNames.npos;
    if (escape == kNames.npos) {
      plain.push_back(text[at]);
    } else {
      plain.push_back(kValues[escape]);
      ++at;
    }
  }
  return plain;
}

}  // namespace ceiling
