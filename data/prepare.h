// Text -> a dataset of token shards: what `ceiling prepare` and the first `ceiling train` of a
// config with a source do.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "data/shard.h"
#include "data/text_reader.h"

namespace ceiling {

struct PrepareOptions {
  std::string tokenizer =
      "";                 // "byte", "spm:VOCAB" (trained on the text) or the path of a .model file
  std::string path = "";  // of the dataset
  double valid_share = 0.01;
  bool bos = true;  // each document begins with BOS; it always ends with EOS
  int threads = 0;  // 0: one per core; does not change the result
  int64_t shard_tokens = DatasetWriterOptions{}.shard_tokens;
  bool replace = false;  // an existing dataset is replaced once the new one is whole
  // A split with fewer tokens is an Error; 2 make one input and one target.
  int64_t min_split_tokens = 2;
  bool valid_may_be_empty = false;  // a validation split without documents: a warning, no Error
};

struct PrepareSummary {
  SplitSummary train, valid;
  int64_t n_read = 0;      // documents
  int64_t n_empty = 0;     // dropped: without a byte
  int64_t n_blank = 0;     // dropped: nothing but ASCII white space (space, \t, \n, \r, \v, \f)
  int64_t n_replaced = 0;  // U+FFFD in place of what was no character
  double seconds = 0;      // without the training of the tokenizer
};

// The tokens and their order depend on the documents, their order and the options, not on
// `threads`. A document is in the validation split if the first 8 hexadecimal digits of its
// SHA-256, over 2^32, are at least 1 - valid_share, so equal texts are on the same side. Logs what
// it does; an Error or Interrupted leaves no dataset. `request` goes into the manifest's provenance
// as it is.
PrepareSummary prepare(const TextSource& source, const PrepareOptions& options,
                       const nlohmann::json& request);

}  // namespace ceiling
