// Tokens that another program has made -> a dataset. Three formats:
//   llmc      .bin of llm.c: a header of 256 int32 (magic, version, count), then uint16 or uint32
//   megatron  .bin + .idx of Megatron-LM and GPT-NeoX: documents are kept as the index has them
//   numpy     nothing but ids, as ndarray.tofile() and OLMo's memmaps are
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/shard.h"

namespace ceiling {

struct ImportOptions {
  std::string format;              // "llmc", "megatron", "numpy"
  std::vector<std::string> files;  // megatron: the .bin, the .idx or what both names begin with
  std::vector<std::string> valid_files;  // wholly for validation
  std::string path = "";                 // of the dataset
  // "byte", the path of a SentencePiece .model, or any name: then vocab_size, bos and eos say the
  // rest, and ids cannot be turned into text.
  std::string tokenizer = "";
  int64_t vocab_size = 0;
  int64_t bos = -1, eos = -1;
  std::string dtype = "";    // numpy: "uint16", "uint32", "int32"; the other formats know theirs
  double valid_share = 0.0;  // of the documents of `files`, chosen by the hash of their tokens
  int64_t shard_tokens = DatasetWriterOptions{}.shard_tokens;
  bool replace = false;
};

struct ImportSummary {
  SplitSummary train, valid;
  int64_t n_empty = 0;  // documents without tokens, dropped
};

// In bounded memory, whatever the size of the files and of a document. Where the format has no
// documents (llmc, numpy), one ends after each EOS and at the end of a file; if there is a BOS and
// no EOS, one begins at each BOS. A document is in the validation split if the first 32 bits of the
// SHA-256 of its first 2^20 ids (u32, little endian), over 2^32, are at least 1 - valid_share.
// Error, and no dataset, on files that are cut, of another format or longer than they say, ids that
// are not in the vocabulary, an EOS that never occurs.
ImportSummary import_tokens(const ImportOptions& options);

}  // namespace ceiling
