// Documents, one after the other, from wherever text comes. What a file's bytes mean:
//   .jsonl  a document is the string under `text_key` of each line; blank lines are skipped; LF or
//           CRLF end a line, and a CR inside the text (written \r) is kept
//   .txt    the whole file is a document, or the parts between `document_separator`; CRLF and lone
//           CR become LF
//   both    a byte order mark at the start of the file is dropped; NUL is kept; the rest must be
//           UTF-8
#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace ceiling {

struct TextOptions {
  std::string text_key = "text";
  std::string document_separator = "";  // for .txt; "\n\n": a blank line
  bool replace_invalid = false;  // malformed UTF-8 and lone surrogates become U+FFFD, else an Error
  int64_t max_document_bytes = int64_t{256} << 20;  // a longer one is an Error, which bounds memory
};

class DocumentStream {
 public:
  virtual ~DocumentStream() = default;
  // The next document, possibly empty; false at the end. Error with file and line.
  virtual bool next(std::string& text) = 0;
  virtual int64_t bytes_done() const = 0;  // of TextSource::size_bytes
  virtual int64_t n_replaced() const = 0;  // U+FFFD written for what was no character
  // What was read, for the record of a dataset; at the end only.
  virtual nlohmann::json provenance() = 0;
};

class TextSource {
 public:
  virtual ~TextSource() = default;
  virtual std::unique_ptr<DocumentStream> open() const = 0;  // from the start, as often as wanted
  virtual int64_t size_bytes() const = 0;                    // as stored; only for progress
  virtual std::string description() const = 0;               // "3 files (1.2 GiB)"
};

// Error as find_text_files.
std::unique_ptr<TextSource> file_source(const std::vector<std::string>& inputs,
                                        const TextOptions& options);

// "\n", "\t", "\r", "\\" written with a backslash become what they mean, as in a separator typed in
// a shell.
std::string unescape(const std::string& text);

}  // namespace ceiling
