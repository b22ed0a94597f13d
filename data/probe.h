// Zero-shot probes of recall, for language models: sequences of a model's own ordinary tokens in
// which what stood before decides, by repetition alone, what follows. Nothing but a sequence that
// repeats itself has to be understood, so a model needs no training on the format.
// With T inputs and n candidate tokens, all drawn uniformly and anew for each sample:
//   induction  random tokens with repeated bigrams A B ... A -> B; each A stands twice only, at
//              gaps of 2, 4, 8, ... up to the context in turn; min(T / 32, n / 4) bigrams
//              (Olsson et al., "In-context Learning and Induction Heads", 2022)
//   copying    a random string of half the context, then the same string again; asked is all of it
//              but its first token, which stands nowhere else (Jelassi et al., "Repeat After Me",
//              2024)
//   phonebook  entries of name (2 tokens), separator, number (4), line end, as many as fit; then
//              one name and the separator again, and the number is asked (same paper)
//   needle     a marker and 4 tokens at any depth of random tokens; at the end the marker again,
//              and the 4 tokens are asked
//   mqar       min(T / 16, n / 4) pairs of key and value at the start, random tokens, and all pairs
//              again in another order at the end; each value is asked (Arora et al., "Zoology",
//              2023)
// Each answer's tokens are given when the next is asked (teacher forcing).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ceiling {

// Names of probes, in the order above.
const std::vector<std::string>& recall_probes();

class ProbeSamples {
 public:
  // `ids`: the candidate tokens, such as Tokenizer::text_ids(). Error if the probe is unknown, the
  // context shorter than 16 or candidates are fewer than 32.
  ProbeSamples(const std::string& probe, int64_t context, std::vector<uint32_t> ids);

  // Fills `context` tokens and targets; a target is the next token, -1 where it is not asked. A
  // pure function of (probe, context, ids, index).
  void read(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) const;

  double chance() const { return 1.0 / static_cast<double>(ids_.size()); }

 private:
  const std::string probe_;
  const std::vector<uint32_t> ids_;
};

}  // namespace ceiling
