// What the formats have in common: typed numbers in a file, and documents that come in pieces.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "data/shard.h"

namespace ceiling {

// How an integer is stored, little endian.
struct IntegerType {
  const char* name;
  int64_t n_bytes;
  void (*widen)(const uint8_t* bytes, std::span<int64_t> numbers);
};
// Error naming `where` unless it is one of "uint8", "int8", "uint16", "int16", "uint32", "int32",
// "int64".
IntegerType integer_type(const std::string& name, const std::string& where);

// A run of integers in a file, read front to back (seek is cheap where it lands on what comes
// next).
class IntegerFile {
 public:
  IntegerFile(const std::string& path, IntegerType type, int64_t first_byte, int64_t n);
  int64_t size() const { return n_; }
  const std::string& path() const { return file_->path(); }
  void seek(int64_t index);
  // The next numbers, at most `n` and at most what is buffered at once; empty at the end.
  std::span<const int64_t> next(int64_t n);
  int64_t next_one();

 private:
  std::unique_ptr<File> file_;  // by pointer: streams move
  IntegerType type_;
  int64_t first_byte_, n_, at_ = 0;
  bool moved_ = true;
  std::vector<uint8_t> bytes_;
  std::vector<int64_t> numbers_;
  size_t used_ = 0;  // of numbers_
};

// The documents of one file, in pieces.
class TokenStream {
 public:
  struct Piece {
    std::span<const uint32_t> tokens;  // may be empty at the end of a document
    bool ends_document;
  };
  virtual ~TokenStream() = default;
  virtual std::optional<Piece> next() = 0;
  virtual int64_t bytes_done() const = 0;
  virtual int64_t bytes_total() const = 0;
};

// Ids as they are stored -> tokens. Error naming file and position of one that is not in the
// vocabulary.
class TokenFile {
 public:
  TokenFile(const std::string& path, IntegerType type, int64_t first_byte, int64_t n,
            int64_t vocab_size);
  int64_t size() const { return ids_.size(); }
  void seek(int64_t index);
  std::span<const uint32_t> next(int64_t n);  // as IntegerFile::next

 private:
  IntegerFile ids_;
  int64_t vocab_size_, at_ = 0;
  std::vector<uint32_t> tokens_;
};

int64_t size_of_file(const std::string& path);

std::unique_ptr<TokenStream> open_llmc(const std::string& path, const TokenizerInfo& tokenizer);
std::unique_ptr<TokenStream> open_numpy(const std::string& path, const std::string& dtype,
                                        const TokenizerInfo& tokenizer);
std::unique_ptr<TokenStream> open_megatron(const std::string& path, const TokenizerInfo& tokenizer);

// A stream without documents, cut at EOS, or at BOS where there is no EOS.
std::unique_ptr<TokenStream> cut_into_documents(TokenFile file, int64_t item_bytes,
                                                const TokenizerInfo& tokenizer);

}  // namespace ceiling
