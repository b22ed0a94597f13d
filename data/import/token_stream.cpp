#include "data/import/token_stream.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace ceiling {

namespace {

constexpr int64_t kBufferItems = int64_t{1} << 16;

template <class Stored>
void widen(const uint8_t* bytes, std::span<int64_t> numbers) {
  for (size_t i = 0; i < numbers.size(); ++i) {
    Stored value;
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    numbers[i] = static_cast<int64_t>(value);
  }
}

template <class Stored>
IntegerType type_of(const char* name) {
  return {name, sizeof(Stored), widen<Stored>};
}

}  // namespace

IntegerType integer_type(const std::string& name, const std::string& where) {
  for (const IntegerType& type :
       {type_of<uint8_t>("uint8"), type_of<int8_t>("int8"), type_of<uint16_t>("uint16"),
        type_of<int16_t>("int16"), type_of<uint32_t>("uint32"), type_of<int32_t>("int32"),
        type_of<int64_t>("int64")})
    if (name == type.name) return type;
  throw Error("{}: tokens of type '{}' are not read", where, name);
}

int64_t size_of_file(const std::string& path) {
  std::error_code failure;
  const auto size = fs::file_size(path, failure);
  if (failure) throw Error("{}: cannot open: {}", path, failure.message());
  return static_cast<int64_t>(size);
}

// ---- IntegerFile

IntegerFile::IntegerFile(const std::string& path, IntegerType type, int64_t first_byte, int64_t n)
    : file_(std::make_unique<File>(path, "rb")), type_(type), first_byte_(first_byte), n_(n) {}

void IntegerFile::seek(int64_t index) {
  if (index == at_) return;
  at_ = index;
  moved_ = true;
  numbers_.clear();
  used_ = 0;
}

std::span<const int64_t> IntegerFile::next(int64_t n) {
  if (used_ == numbers_.size()) {
    if (moved_) file_->seek(first_byte_ + at_ * type_.n_bytes);
    moved_ = false;
    numbers_.resize(static_cast<size_t>(std::min(kBufferItems, n_ - at_)));
    bytes_.resize(numbers_.size() * static_cast<size_t>(type_.n_bytes));
    if (file_->read(bytes_.data(), bytes_.size()) != bytes_.size())
      throw Error("{}: was cut while it was read", file_->path());
    type_.widen(bytes_.data(), numbers_);
    used_ = 0;
  }
  const size_t count = std::min(static_cast<size_t>(n), numbers_.size() - used_);
  const std::span<const int64_t> part(numbers_.data() + used_, count);
  used_ += count;
  at_ += static_cast<int64_t>(count);
  return part;
}

int64_t IntegerFile::next_one() { return next(1)[0]; }

// ---- TokenFile

TokenFile::TokenFile(const std::string& path, IntegerType type, int64_t first_byte, int64_t n,
                     int64_t vocab_size)
    : ids_(path, type, first_byte, n), vocab_size_(vocab_size) {}

void TokenFile::seek(int64_t index) {
  ids_.seek(index);
  at_ = index;
}

std::span<const uint32_t> TokenFile::next(int64_t n) {
  const std::span<const int64_t> ids = ids_.next(n);
  tokens_.resize(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size_)
      throw Error(
          "{}: token {} at position {} is not in the vocabulary of {} ids; is the type of the "
          "tokens "
          "right, and the vocabulary?",
          ids_.path(), ids[i], at_ + static_cast<int64_t>(i), vocab_size_);
    tokens_[i] = static_cast<uint32_t>(ids[i]);
  }
  at_ += static_cast<int64_t>(ids.size());
  return tokens_;
}

// ---- documents from a stream without

namespace {

class CutAtMarks final : public TokenStream {
 public:
  CutAtMarks(TokenFile file, int64_t item_bytes, const TokenizerInfo& tokenizer)
      : file_(std::move(file)),
        item_bytes_(item_bytes),
        at_eos_(tokenizer.eos >= 0),
        mark_(at_eos_ ? tokenizer.eos : tokenizer.bos) {}

  std::optional<Piece> next() override {
    if (rest_.empty()) rest_ = file_.next(file_.size() - done_);
    if (rest_.empty()) {
      if (!inside_) return std::nullopt;
      inside_ = false;
      return Piece{{}, true};
    }
    size_t length = rest_.size();
    bool ends = false;
    if (mark_ >= 0) {
      // An EOS belongs to the document that it ends, a BOS to the one that it begins.
      const size_t skip = at_eos_ || inside_ ? 0 : 1;
      const auto found = std::find(rest_.begin() + static_cast<std::ptrdiff_t>(skip), rest_.end(),
                                   static_cast<uint32_t>(mark_));
      if (found != rest_.end()) {
        ends = true;
        length = static_cast<size_t>(found - rest_.begin()) + (at_eos_ ? 1 : 0);
      }
    }
    const Piece piece{rest_.first(length), ends};
    rest_ = rest_.subspan(length);
    done_ += static_cast<int64_t>(length);
    inside_ = !ends;
    return piece;
  }
  int64_t bytes_done() const override { return done_ * item_bytes_; }
  int64_t bytes_total() const override { return file_.size() * item_bytes_; }

 private:
  TokenFile file_;
  int64_t item_bytes_;
  bool at_eos_;
  int64_t mark_;
  std::span<const uint32_t> rest_;  // read and not yet given out
  int64_t done_ = 0;
  bool inside_ = false;  // a document has begun
};

}  // namespace

std::unique_ptr<TokenStream> cut_into_documents(TokenFile file, int64_t item_bytes,
                                                const TokenizerInfo& tokenizer) {
  return std::make_unique<CutAtMarks>(std::move(file), item_bytes, tokenizer);
}

}  // namespace ceiling
