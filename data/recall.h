// Synthetic tasks that a model can solve only by recalling what stood earlier in its context. The
// sample at position p is a pure function of (options, split, p): nothing is stored or downloaded.
//   mqar               multi-query associative recall: key-value pairs, then every key asked again
//                      at gaps of a power law (Arora et al., "Zoology", 2023)
//   selective_copying  items scattered among blanks, to be repeated in order (Gu & Dao, "Mamba",
//                      2023, section 4.1.1)
//   induction          the token that followed the trigger when it stood here before (same section)
//   phonebook          entries of name and number, then one name asked (Jelassi et al., "Repeat
//                      After Me", 2024)
//   needle             one marked run of tokens at any depth of random text, asked at the end
//   copying            a random string of n_items tokens, then the same string again, of which all
//                      but the first token is asked (Jelassi et al., 2024)
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "data/shard.h"

namespace ceiling {

struct RecallOptions {
  std::string task;
  int64_t vocab_size = 0;    // 0: of the published setting
  int64_t n_items = 0;       // pairs, items or entries; 0: of the published setting
  int64_t name_tokens = 2;   // of a phonebook's entry
  int64_t value_tokens = 4;  // of a phonebook's number, of a needle
  double power = 0.01;       // a of mqar: gap i has a chance proportional to i^(a - 1); 1: uniform
  int64_t n_train = 100000;  // training samples, seen again each epoch in another order
  int64_t n_test = 3000;
};

// Their ids have no text: the "tokenizer" is named by this and the task, as in "task:mqar".
inline constexpr const char* kTaskPrefix = "task:";

// Names for RecallOptions::task.
const std::vector<std::string>& recall_tasks();

// The options with published settings in place of 0. mqar: vocabulary 8192 and (context, pairs) =
// (64, 4), (128, 8), (256, 16), (512, 64), else context / 16 pairs; selective_copying: vocabulary
// 16, 16 items; induction: vocabulary 16; phonebook: vocabulary 64, as many entries as fit; needle:
// vocabulary 64; copying: vocabulary 64, a string of half the context. Error if the task is unknown
// or does not fit into the context or vocabulary.
RecallOptions resolve_recall(RecallOptions options, int64_t context);

// Version of the samples: changes whenever the same options would give others.
inline constexpr int kRecallVersion = 1;

class RecallSamples {
 public:
  // Error as resolve_recall. `seed` decides the training samples; the test set (Split::kValid) is
  // the same for every seed. No sequence is in both: which of them it belongs to follows from a
  // hash of its tokens and answers, 1 in 16 being kept for the test set.
  RecallSamples(const RecallOptions& options, int64_t context, uint64_t seed, Split split);

  // Fills `context` tokens and targets; a target is the answer expected after its token, -1 where
  // there is no question. Error if chance finds no sequence for this split (a tiny vocabulary).
  void read(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) const;

  const RecallOptions& options() const { return options_; }
  nlohmann::json describe() const;  // what decides the samples, but for the seed

 private:
  const RecallOptions options_;
  const int64_t context_;
  const Split split_;
  const RandomStream starts_;           // per sample: the seed of its own numbers
  std::vector<double> gap_log_chance_;  // of mqar, per slot
};

}  // namespace ceiling
