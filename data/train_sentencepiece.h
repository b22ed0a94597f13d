// Training of a SentencePiece BPE model with byte fallback, from counted words rather than from the
// text: the memory does not grow with the corpus, and lines of any length do.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ceiling {

// Counts words: a run of spaces with what follows up to the next space or newline, and runs of
// newlines. When too many different ones have been seen, the rarest are forgotten.
class WordCounts {
 public:
  void add(std::string_view text);
  int64_t n_bytes() const { return n_bytes_; }
  // The most frequent words, in falling order of count, then of bytes. Nothing is counted any more.
  std::vector<std::pair<std::string, int64_t>> take_most_frequent();

 private:
  void count(std::string_view word);
  void forget_rarest();

  std::unordered_map<std::string, int64_t> counts_;
  int64_t n_bytes_ = 0;
  int64_t forgotten_ = 0;  // words counted this often or less may have been forgotten
};

// The bytes of a model with `vocab_size` pieces: 0 unknown, 1 BOS, 2 EOS, 3..258 bytes, then the
// learnt ones. Digits stay alone, spaces stand only at the start of a piece. The same counts give
// the same model. Error if the words cannot fill the vocabulary, with what
// is possible.
std::string train_sentencepiece(WordCounts words, int64_t vocab_size);

}  // namespace ceiling
