// Choosing the next token from logits, and generating text with a constant-memory state.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "modules/lm.h"

namespace ceiling {

struct SamplingOptions {
  double temperature = 1.0;  // 0: the most probable token
  int64_t top_k = 0;         // of the k most probable tokens; 0: all
  double top_p = 1.0;        // of the fewest tokens whose probabilities add up to p
  uint64_t seed = 1;
  int64_t max_tokens = 200;
};

// Error, naming the option, unless temperature >= 0, top_k >= 0 and 0 < top_p <= 1.
void check_sampling(const SamplingOptions& options);

// One token from `logits` [vocab] (fp32, CPU). `draw` in [0, 1) decides.
int64_t sample_token(const float* logits, int64_t vocab_size, const SamplingOptions& options,
                     double draw);

struct Generation {
  std::vector<uint32_t> tokens;  // new tokens, without the prompt and without EOS
  bool stopped_at_eos = false;
};

struct GenerateTimes {
  double prefill_s = 0, decode_s = 0;
  int64_t prefill_tokens = 0, decode_tokens = 0;
};

// Continues each prompt (token ids, at least one each; BOS included where wanted). Prompts of one
// call share a batch: shorter ones are padded on the left as a document of their own, so no prompt
// sees padding or a neighbour. Row r draws from stream (seed, r). `on_token(row, token)` is called
// as tokens come.
std::vector<Generation> generate(LanguageModel& model,
                                 const std::vector<std::vector<uint32_t>>& prompts, int64_t eos,
                                 const SamplingOptions& options, at::Device device,
                                 GenerateTimes* times = nullptr,
                                 const std::function<void(size_t, uint32_t)>& on_token = {});

// The text as a document's beginning: BOS first if documents of the training data began so. Error
// if nothing is left.
std::vector<uint32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& text, bool bos);

}  // namespace ceiling
