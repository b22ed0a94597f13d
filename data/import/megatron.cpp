// Megatron-LM's indexed dataset, little endian:
//   .idx  "MMIDIDX\0\0", version u64 = 1, type code u8, number of sequences u64, length of the
//         document index u64, sequence lengths i32[], byte offset of each sequence in the .bin
//         i64[], document index i64[]: the first sequence of each document, and at last the number
//         of sequences; then, in some files, a mode i8[] per sequence
//   .bin  tokens
#include <cstring>

#include "base/error.h"
#include "data/import/token_stream.h"

namespace ceiling {

namespace {

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr int64_t kHeaderBytes = 9 + 8 + 1 + 8 + 8;

std::string type_of_code(uint8_t code, const std::string& path) {
  switch (code) {
    case 1:
      return "uint8";
    case 2:
      return "int8";
    case 3:
      return "int16";
    case 4:
      return "int32";
    case 5:
      return "int64";
    case 8:
      return "uint16";
    default:
      throw Error("{}: type code {} is not one of integers", path, code);
  }
}

struct Index {
  IntegerType type;
  int64_t n_sequences, n_documents;
  IntegerFile lengths, offsets, documents;
};

Index read_index(const std::string& path) {
  const int64_t size = size_of_file(path);
  unsigned char header[kHeaderBytes] = {};
  File file(path, "rb");
  if (file.read(header, sizeof header) != sizeof header ||
      std::memcmp(header, kMagic.data(), kMagic.size()) != 0)
    throw Error("{}: is not an index of Megatron-LM: it does not begin with MMIDIDX", path);
  uint64_t version = 0, n_sequences = 0, n_entries = 0;
  std::memcpy(&version, header + 9, 8);
  std::memcpy(&n_sequences, header + 18, 8);
  std::memcpy(&n_entries, header + 26, 8);
  if (version != 1)
    throw Error("{}: version {} of Megatron-LM's index is unknown, 1 is read", path, version);
  const IntegerType type = integer_type(type_of_code(header[17], path), path);
  const auto bytes = static_cast<uint64_t>(size);
  if (n_sequences > bytes / 12 || n_entries > bytes / 8 || n_entries < 1)
    throw Error("{}: {} sequences and {} document entries do not fit into {} bytes: cut or damaged",
                path, n_sequences, n_entries, size);
  const auto n = static_cast<int64_t>(n_sequences), entries = static_cast<int64_t>(n_entries);
  const int64_t wanted = kHeaderBytes + n * 12 + entries * 8;
  if (size != wanted && size != wanted + n)  // with modes
    throw Error(
        "{}: {} sequences and {} document entries take {} bytes, but the file is {} bytes: cut or "
        "damaged",
        path, n, entries, wanted, size);
  const IntegerType i32 = integer_type("int32", path), i64 = integer_type("int64", path);
  return {type,
          n,
          entries - 1,
          IntegerFile(path, i32, kHeaderBytes, n),
          IntegerFile(path, i64, kHeaderBytes + n * 4, n),
          IntegerFile(path, i64, kHeaderBytes + n * 12, entries)};
}

class Megatron final : public TokenStream {
 public:
  Megatron(const std::string& stem, const TokenizerInfo& tokenizer)
      : index_path_(stem + ".idx"),
        index_(read_index(index_path_)),
        bin_bytes_(size_of_file(stem + ".bin")),
        tokens_(stem + ".bin", index_.type, 0, bin_tokens(stem + ".bin"), tokenizer.vocab_size) {
    if (index_.documents.next_one() != 0)
      throw Error("{}: the first document does not begin at sequence 0", index_path_);
  }

  std::optional<Piece> next() override {
    while (left_in_sequence_ == 0) {
      if (sequence_ < document_end_) {
        begin_sequence();
      } else if (inside_) {
        inside_ = false;
        return Piece{{}, true};
      } else if (document_ < index_.n_documents) {
        begin_document();
      } else {
        if (sequence_ != index_.n_sequences)
          throw Error("{}: its documents hold {} of {} sequences", index_path_, sequence_,
                      index_.n_sequences);
        return std::nullopt;
      }
    }
    const std::span<const uint32_t> tokens = tokens_.next(left_in_sequence_);
    left_in_sequence_ -= static_cast<int64_t>(tokens.size());
    n_read_ += static_cast<int64_t>(tokens.size());
    return Piece{tokens, false};
  }
  int64_t bytes_done() const override { return n_read_ * index_.type.n_bytes; }
  int64_t bytes_total() const override { return bin_bytes_; }

 private:
  int64_t bin_tokens(const std::string& path) const {
    if (bin_bytes_ % index_.type.n_bytes != 0)
      throw Error("{}: {} bytes are not a whole number of {}: cut or damaged", path, bin_bytes_,
                  index_.type.name);
    return bin_bytes_ / index_.type.n_bytes;
  }

  void begin_document() {
    const int64_t end = index_.documents.next_one();
    if (end < document_end_ || end > index_.n_sequences)
      throw Error("{}: document {} ends at sequence {} of {}, after {}", index_path_, document_,
                  end, index_.n_sequences, document_end_);
    document_end_ = end;
    ++document_;
    inside_ = true;
  }

  void begin_sequence() {
    const int64_t length = index_.lengths.next_one(), offset = index_.offsets.next_one();
    const int64_t item = index_.type.n_bytes;
    if (length < 0 || offset < 0 || offset % item != 0 || offset / item > tokens_.size() - length)
      throw Error(
          "{}: sequence {} has {} tokens from byte {}, the .bin is {} bytes: cut, or of another "
          "index",
          index_path_, sequence_, length, offset, bin_bytes_);
    tokens_.seek(offset / item);
    left_in_sequence_ = length;
    ++sequence_;
  }

  std::string index_path_;
  Index index_;
  int64_t bin_bytes_;
  TokenFile tokens_;
  int64_t document_ = 0, document_end_ = 0,
          sequence_ = 0;  // next document, end of this one, next sequence
  int64_t left_in_sequence_ = 0, n_read_ = 0;
  bool inside_ = false;
};

}  // namespace

std::unique_ptr<TokenStream> open_megatron(const std::string& path,
                                           const TokenizerInfo& tokenizer) {
  const fs::path given(path);
  const bool has_suffix = given.extension() == ".bin" || given.extension() == ".idx";
  const std::string stem = has_suffix ? path.substr(0, path.size() - 4) : path;
  return std::make_unique<Megatron>(stem, tokenizer);
}

}  // namespace ceiling
