#include "data/train_sentencepiece.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/child_process.h"
#include "base/error.h"
#include "base/text.h"
#include "data/sentencepiece_model.h"

namespace ceiling {

namespace {

constexpr size_t kMaxWord = 64;                      // bytes; the longest piece has 16 characters
constexpr size_t kMaxDifferent = size_t{1} << 19;    // words in the table
constexpr size_t kMaxForTraining = size_t{1} << 17;  // the library takes about 1 KB for each
constexpr int64_t kReservedPieces = 3 + 256;
constexpr double kCharacterCoverage = 0.9995;  // rarer characters are spelt in bytes

bool more_frequent(const std::pair<std::string, int64_t>& a,
                   const std::pair<std::string, int64_t>& b) {
  return a.second != b.second ? a.second > b.second : a.first < b.first;
}

bool continues_character(char byte) { return (static_cast<uint8_t>(byte) & 0xc0) == 0x80; }

// What the library gives a meaning of its own: control characters (the tab separates its columns),
// the mark that stands for a space (U+2581) and the one for unknown characters (U+2585). They are
// spelt in bytes.
size_t reserved_size(std::string_view text) {
  const auto byte = static_cast<uint8_t>(text[0]);
  if (byte < 0x20 && byte != '\n') return 1;
  return text.starts_with("\xE2\x96\x81") || text.starts_with("\xE2\x96\x85") ? 3 : 0;
}

// "word<tab>count", one after the other.
class WordIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit WordIterator(const std::vector<std::pair<std::string, int64_t>>& words) : words_(words) {
    write_line();
  }
  bool done() const override { return at_ >= words_.size(); }
  void Next() override {
    ++at_;
    write_line();
  }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void write_line() {
    if (!done()) line_ = words_[at_].first + '\t' + std::to_string(words_[at_].second);
  }
  const std::vector<std::pair<std::string, int64_t>>& words_;
  size_t at_ = 0;
  std::string line_;
};

using CountedWords = std::vector<std::pair<std::string, int64_t>>;

size_t character_end(const std::string& word, size_t at) {
  size_t end = at + 1;
  while (end < word.size() && continues_character(word[end])) ++end;
  return end;
}

// All characters of the words, the most frequent first.
CountedWords characters_of(const CountedWords& words) {
  std::unordered_map<std::string, int64_t> counts;
  for (const auto& [word, count] : words)
    for (size_t at = 0, end; at < word.size(); at = end)
      counts[word.substr(at, (end = character_end(word, at)) - at)] += count;
  CountedWords sorted(counts.begin(), counts.end());
  std::sort(sorted.begin(), sorted.end(), more_frequent);
  return sorted;
}

// How many of the most frequent characters become pieces of their own: as usual in the field, but
// at most half of the learnt pieces.
size_t characters_to_learn(const CountedWords& characters, int64_t learnt_pieces) {
  double all = 0, covered = 0;
  for (const auto& [character, count] : characters) all += static_cast<double>(count);
  size_t n = 0;
  while (n < characters.size() && n < static_cast<size_t>(learnt_pieces) / 2 &&
         covered < kCharacterCoverage * all)
    covered += static_cast<double>(characters[n++].second);
  return n;
}

// The words, cut at all but the `n` most frequent characters.
CountedWords cut_at_rare_characters(const CountedWords& words, const CountedWords& characters,
                                    size_t n) {
  std::unordered_set<std::string> kept;
  for (size_t i = 0; i < n; ++i) kept.insert(characters[i].first);
  CountedWords result;
  for (const auto& [word, count] : words) {
    size_t start = 0;
    const auto cut = [&](size_t end) {
      if (end > start) result.emplace_back(word.substr(start, end - start), count);
    };
    for (size_t at = 0, end; at < word.size(); at = end) {
      end = character_end(word, at);
      if (kept.contains(word.substr(at, end - at))) continue;
      cut(at);
      start = end;
    }
    cut(word.size());
  }
  return result;
}

// The library's own part. May give fewer pieces than asked for.
std::string run_library(const CountedWords& words, int64_t vocab_size) {
  WordIterator iterator(words);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", "bpe"},
       {"vocab_size", std::to_string(vocab_size)},
       {"hard_vocab_limit", "false"},
       {"byte_fallback", "true"},
       {"character_coverage", "1.0"},
       {"normalization_rule_name", "identity"},
       {"add_dummy_prefix", "false"},
       {"remove_extra_whitespaces", "false"},
       {"allow_whitespace_only_pieces", "true"},
       {"split_digits", "true"},
       {"unk_id", "0"},
       {"bos_id", "1"},
       {"eos_id", "2"},
       {"pad_id", "-1"},
       {"input_format", "tsv"},
       {"num_threads", "1"},  // stored in the model, and the merging has one thread anyway
       {"minloglevel", "3"}},
      &iterator, &model);
  if (!status.ok())
    throw Error("tokenizer spm:{}: training failed: {}", vocab_size, status.error_message());
  return model;
}

// In a process of its own: training takes half a minute, cannot be interrupted, and the library
// ends the process where one of its own checks fails.
std::string train_on(const CountedWords& words, int64_t vocab_size) {
  return run_in_child(fmt::format("tokenizer spm:{}: training", vocab_size),
                      [&] { return run_library(words, vocab_size); });
}

}  // namespace

void WordCounts::add(std::string_view text) {
  n_bytes_ += static_cast<int64_t>(text.size());
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    if (const size_t reserved = reserved_size(text.substr(at))) {
      count(text.substr(start, at - start));
      at += reserved;
      start = at;
      continue;
    }
    const bool breaks = at > start && ((text[at] == ' ' && text[at - 1] != ' ') ||
                                       (text[at] == '\n') != (text[at - 1] == '\n') ||
                                       (at - start >= kMaxWord && !continues_character(text[at])));
    if (breaks) {
      count(text.substr(start, at - start));
      start = at;
    }
    ++at;
  }
  count(text.substr(start));
}

void WordCounts::count(std::string_view word) {
  if (word.empty()) return;
  ++counts_.try_emplace(std::string(word), forgotten_).first->second;
  if (counts_.size() > kMaxDifferent) forget_rarest();
}

// Lossy counting: a word that comes back later starts from what it may have had, so that old and
// new words compare fairly.
void WordCounts::forget_rarest() {
  while (counts_.size() > kMaxDifferent / 2) {
    ++forgotten_;
    std::erase_if(counts_, [&](const auto& entry) { return entry.second <= forgotten_; });
  }
}

std::vector<std::pair<std::string, int64_t>> WordCounts::take_most_frequent() {
  std::vector<std::pair<std::string, int64_t>> words(counts_.begin(), counts_.end());
  counts_ = {};
  std::sort(words.begin(), words.end(), more_frequent);
  if (words.size() > kMaxForTraining) words.resize(kMaxForTraining);
  return words;
}

std::string train_sentencepiece(WordCounts words, int64_t vocab_size) {
  const int64_t learnt = vocab_size - kReservedPieces;
  if (learnt < 2)
    throw Error(
        "tokenizer spm:{}: too small; {} pieces are taken by bytes, BOS, EOS and unknown, so the "
        "least is spm:{}",
        vocab_size, kReservedPieces, kReservedPieces + 2);
  const CountedWords frequent = words.take_most_frequent();
  if (frequent.empty())
    throw Error("tokenizer spm:{}: there is no text to learn words from; use the tokenizer byte",
                vocab_size);
  const CountedWords characters = characters_of(frequent);
  size_t n_characters = characters_to_learn(characters, learnt);
  for (;;) {
    const CountedWords cut = cut_at_rare_characters(frequent, characters, n_characters);
    const std::string model = train_on(cut, vocab_size);
    const auto n_pieces =
        static_cast<int64_t>(parse_sentencepiece_model(model, "trained model").pieces.size());
    if (n_pieces == vocab_size) return model;
    if (n_characters == characters.size())
      throw Error(
          "tokenizer spm:{}: the text ({}, {} different words) gives only {} pieces; use spm:{} or "
          "less, more text, or the tokenizer byte",
          vocab_size, format_bytes(static_cast<double>(words.n_bytes())), frequent.size(), n_pieces,
          n_pieces);
    // A small text: more of its characters fill the vocabulary.
    n_characters =
        std::min(characters.size(), n_characters + static_cast<size_t>(vocab_size - n_pieces));
  }
}

}  // namespace ceiling
