// Every byte of the text is one token: no training, no file, nothing to lose.
#include "base/hash.h"
#include "data/tokenizer.h"

namespace ceiling {

namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer()
      : info_{.name = "byte",
              .sha256 = sha256_hex("byte"),
              .vocab_size = 258,
              .bos = 256,
              .eos = 257} {}
  const TokenizerInfo& info() const override { return info_; }
  std::vector<uint32_t> encode(std::string_view text) const override {
    const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
    return {bytes, bytes + text.size()};
  }
  std::string decode(std::span<const uint32_t> ids) const override {
    std::string text;
    text.reserve(ids.size());
    for (const uint32_t id : ids)
      if (id < 256) text.push_back(static_cast<char>(id));
    return text;
  }
  std::vector<uint32_t> text_ids() const override {
    std::vector<uint32_t> ids;
    for (uint32_t id = ' '; id <= '~'; ++id) ids.push_back(id);
    return ids;
  }
  const std::string& model_file() const override { return no_file_; }

 private:
  TokenizerInfo info_;
  std::string no_file_;
};

}  // namespace

std::shared_ptr<const Tokenizer> byte_tokenizer() { return std::make_shared<ByteTokenizer>(); }

}  // namespace ceiling
