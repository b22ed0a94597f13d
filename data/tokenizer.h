// Text <-> token ids. Two kinds: `byte` (256 bytes + BOS + EOS) and SentencePiece BPE with byte
// fallback, both lossless: decode(encode(text)) == text for every UTF-8 text.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/shard.h"

namespace ceiling {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual const TokenizerInfo& info() const = 0;
  // Ids of the text alone, no BOS or EOS. Safe to call from several threads.
  virtual std::vector<uint32_t> encode(std::string_view text) const = 0;
  // Text of the ids; BOS, EOS and ids >= vocab_size give nothing. A character cut at either end
  // gives its bytes as they are.
  virtual std::string decode(std::span<const uint32_t> ids) const = 0;
  // Ids of ordinary text, ascending: the pieces without BOS, EOS, unknown, control and byte
  // fallback; of `byte` the printable ASCII characters. Where no text is known, all but BOS and
  // EOS.
  virtual std::vector<uint32_t> text_ids() const = 0;
  // The bytes of a SentencePiece model file, empty for `byte`: what a dataset and an export carry
  // along.
  virtual const std::string& model_file() const = 0;
};

// Ids 0..255 are the bytes, 256 is BOS, 257 is EOS.
std::shared_ptr<const Tokenizer> byte_tokenizer();

// From a SentencePiece model's bytes; `name` as in TokenizerInfo and in messages. Error if it is
// not a model, or one that would not give every text back: not BPE, without byte fallback, with
// normalisation. A model's add_dummy_prefix is not applied: no space is put in front of a text.
std::shared_ptr<const Tokenizer> sentencepiece_tokenizer(std::string_view model,
                                                         const std::string& name);

inline constexpr const char* kTokenizerFile = "tokenizer.model";  // beside a dataset's shards

// The tokenizer that lies beside a dataset's shards, checked against the manifest. For a dataset
// that was imported without one: a tokenizer that knows its info() and refuses to encode and
// decode with an Error.
std::shared_ptr<const Tokenizer> dataset_tokenizer(const DatasetReader& dataset);

// Of ids that stand for no text: knows its info() and refuses to encode and decode with an Error
// that names `dataset`.
std::shared_ptr<const Tokenizer> ids_only_tokenizer(const TokenizerInfo& info,
                                                    const std::string& dataset);

}  // namespace ceiling
