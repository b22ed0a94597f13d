// The tokenizer files of a Hugging Face folder, written so that transformers gives exactly our ids.
#pragma once
#include <cstdint>
#include <string>

#include "data/tokenizer.h"

namespace ceiling {

struct HfTokenizerOptions {
  bool bos = true;      // a text begins with BOS
  int64_t context = 0;  // 0: not said
};

// tokenizer.json, tokenizer_config.json, special_tokens_map.json; tokenizer.model for
// SentencePiece.
void write_hf_tokenizer(const std::string& folder, const Tokenizer& tokenizer,
                        const HfTokenizerOptions& options);

}  // namespace ceiling
