// The tokenizer that a dataset carries with it.
#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "data/tokenizer.h"

namespace ceiling {

namespace {

// Of a dataset that was imported as bare ids: enough to train on, not to turn text into ids.
class IdsOnlyTokenizer final : public Tokenizer {
 public:
  IdsOnlyTokenizer(const TokenizerInfo& info, const std::string& dataset)
      : info_(info), dataset_(dataset) {}
  const TokenizerInfo& info() const override { return info_; }
  std::vector<uint32_t> encode(std::string_view) const override { no_text(); }
  std::string decode(std::span<const uint32_t>) const override { no_text(); }
  std::vector<uint32_t> text_ids() const override {
    std::vector<uint32_t> ids;
    for (int64_t id = 0; id < info_.vocab_size; ++id)
      if (id != info_.bos && id != info_.eos) ids.push_back(static_cast<uint32_t>(id));
    return ids;
  }
  const std::string& model_file() const override { return no_file_; }

 private:
  [[noreturn]] void no_text() const {
    throw Error(
        "{}: the dataset has no {} (its tokens were imported), so there is no text for its ids; "
        "train it without eval.prompts",
        dataset_, kTokenizerFile);
  }
  TokenizerInfo info_;
  std::string dataset_, no_file_;
};

}  // namespace

std::shared_ptr<const Tokenizer> ids_only_tokenizer(const TokenizerInfo& info,
                                                    const std::string& dataset) {
  return std::make_shared<IdsOnlyTokenizer>(info, dataset);
}

std::shared_ptr<const Tokenizer> dataset_tokenizer(const DatasetReader& dataset) {
  const TokenizerInfo& wanted = dataset.tokenizer();
  const auto bytes = byte_tokenizer();
  if (wanted == bytes->info()) return bytes;
  if (!dataset.manifest().at("files").contains(kTokenizerFile))
    return std::make_shared<IdsOnlyTokenizer>(wanted, dataset.path());
  const std::string path = dataset.path() + "/" + kTokenizerFile;
  const std::string model = read_file(path);
  if (sha256_hex(model) != wanted.sha256)
    throw Error(
        "{}: is not the tokenizer of this dataset: its sha256 is {}, the manifest says {}; restore "
        "the file or prepare the text again",
        path, sha256_hex(model).substr(0, 12), wanted.sha256.substr(0, 12));
  auto tokenizer = sentencepiece_tokenizer(model, wanted.name);
  if (tokenizer->info() != wanted)
    throw Error(
        "{}: has {} ids, BOS {} and EOS {}; the manifest says {}, {} and {}; prepare the text "
        "again",
        path, tokenizer->info().vocab_size, tokenizer->info().bos, tokenizer->info().eos,
        wanted.vocab_size, wanted.bos, wanted.eos);
  return tokenizer;
}

}  // namespace ceiling
