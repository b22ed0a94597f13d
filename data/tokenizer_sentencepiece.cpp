// SentencePiece BPE with byte fallback, encoded by our own code: byte-exact for every text, and
// several times as fast as the library, because a word that was seen a moment ago is looked up
// instead of merged again.
//
// The merges are the library's: start from characters; of all neighbours whose concatenation is a
// piece, join the pair of highest score, leftmost first; until none is left. What differs, so that
// no byte is ever lost or changed:
//   - no normalisation and no space put in front;
//   - a literal U+2581 (which pieces use for the space) and malformed UTF-8 become byte pieces;
//   - a stretch of more than kMaxStretch bytes without a break is cut there, to bound memory.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "base/hash.h"
#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"

namespace ceiling {

namespace {

constexpr size_t kMaxStretch = 4096;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr uint32_t kNoSymbol = 0xffffffff;

// Bytes of the character that starts `text`; 1 for a byte that starts none.
size_t character_size(std::string_view text) {
  const auto lead = static_cast<uint8_t>(text[0]);
  const size_t size = lead < 0xc2 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 1;
  if (size > text.size()) return 1;
  for (size_t i = 1; i < size; ++i)
    if ((static_cast<uint8_t>(text[i]) & 0xc0) != 0x80) return 1;
  return size;
}

// (left symbol, right symbol) -> what they join to. Open addressing, because every merge asks it.
class PairTable {
 public:
  struct Entry {
    uint64_t pair = ~uint64_t{0};
    uint32_t joined = kNoSymbol;
    float score = 0;
  };

  explicit PairTable(const std::vector<Entry>& entries) {
    size_t size = 16;
    while (size < 2 * entries.size()) size *= 2;
    slots_.resize(size);
    for (const Entry& entry : entries) {
      size_t at = slot(entry.pair);
      while (slots_[at].joined != kNoSymbol) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = entry;
    }
  }

  const Entry* find(uint32_t left, uint32_t right) const {
    if (left == kNoSymbol || right == kNoSymbol) return nullptr;
    const uint64_t pair = key(left, right);
    for (size_t at = slot(pair); slots_[at].joined != kNoSymbol;
         at = (at + 1) & (slots_.size() - 1))
      if (slots_[at].pair == pair) return &slots_[at];
    return nullptr;
  }

  static uint64_t key(uint32_t left, uint32_t right) {
    return static_cast<uint64_t>(left) << 32 | right;
  }

 private:
  size_t slot(uint64_t pair) const {
    return (pair * 0x9E3779B97F4A7C15ull >> 32) & (slots_.size() - 1);
  }
  std::vector<Entry> slots_;
};

// Recently encoded words of one thread, in a table that never grows.
class WordCache {
 public:
  struct Slot {
    uint8_t size = 0, n_ids = 0;
    std::array<char, 30> word;
    std::array<uint32_t, 8> ids;
  };

  // The cache of this thread, emptied if it was last used by another tokenizer.
  static WordCache& of(uint64_t owner) {
    thread_local WordCache cache;
    if (cache.owner_ != owner) {
      cache.slots_.assign(kSlots, {});
      cache.owner_ = owner;
    }
    return cache;
  }

  Slot& slot(std::string_view word) {
    uint64_t hash = word.size();
    for (size_t i = 0; i < word.size(); i += 8) {
      uint64_t chunk = 0;
      std::memcpy(&chunk, word.data() + i, std::min<size_t>(8, word.size() - i));
      hash = (hash ^ chunk) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 29;
    }
    return slots_[hash % kSlots];
  }

  static bool holds(const Slot& slot, std::string_view word) {
    return slot.size == word.size() && std::memcmp(slot.word.data(), word.data(), word.size()) == 0;
  }

 private:
  static constexpr size_t kSlots = size_t{1} << 15;  // 2 MiB
  uint64_t owner_ = 0;
  std::vector<Slot> slots_;
};

// What joins to what, over symbols: the pieces, and the characters that occur in them.
class Merger {
 public:
  explicit Merger(const SentencePieceModel& model) : pairs_(read_pieces(model)) {}

  // Appends the ids of `word`, merged as far as the pieces allow.
  void encode(std::string_view word, std::vector<uint32_t>& ids) const {
    thread_local std::vector<Node> nodes;
    thread_local std::vector<Candidate> heap;
    nodes.clear();
    heap.clear();
    split(word, nodes);
    for (size_t i = 1; i < nodes.size(); ++i)
      propose(nodes, heap, static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end());
      const Candidate best = heap.back();
      heap.pop_back();
      Node& left = nodes[static_cast<size_t>(best.left)];
      if (left.symbol != best.left_symbol || left.next != best.right ||
          nodes[static_cast<size_t>(best.right)].symbol != best.right_symbol)
        continue;  // one of the two has been joined to another neighbour since
      Node& right = nodes[static_cast<size_t>(best.right)];
      left.symbol = best.joined;
      left.size += right.size;
      left.next = right.next;
      right.size = 0;
      right.symbol = kNoSymbol;
      if (left.next >= 0) nodes[static_cast<size_t>(left.next)].previous = best.left;
      propose(nodes, heap, left.previous, best.left);
      propose(nodes, heap, best.left, left.next);
    }
    for (int32_t i = 0; i >= 0 && !nodes.empty(); i = nodes[static_cast<size_t>(i)].next) {
      const Node& node = nodes[static_cast<size_t>(i)];
      const uint32_t id = node.symbol == kNoSymbol ? kNoSymbol : symbol_ids_[node.symbol];
      if (id != kNoSymbol)
        ids.push_back(id);
      else
        for (const char byte : word.substr(node.start, node.size))
          ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    }
  }

  bool words_start_with_spaces() const { return words_start_with_spaces_; }
  bool newlines_stand_alone() const { return newlines_stand_alone_; }
  const std::array<uint32_t, 256>& byte_ids() const { return byte_ids_; }

 private:
  struct Node {
    uint32_t symbol;
    uint32_t start, size;  // in the word
    int32_t previous, next;
  };
  struct Candidate {
    float score;
    int32_t left, right;
    uint32_t left_symbol, right_symbol, joined;
    bool operator<(const Candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };

  void split(std::string_view word, std::vector<Node>& nodes) const {
    for (size_t at = 0; at < word.size();) {
      const size_t size = character_size(word.substr(at));
      const auto index = static_cast<int32_t>(nodes.size());
      nodes.push_back({character_symbol(word.substr(at, size)), static_cast<uint32_t>(at),
                       static_cast<uint32_t>(size), index - 1, index + 1});
      at += size;
    }
    if (!nodes.empty()) nodes.back().next = -1;
  }

  void propose(const std::vector<Node>& nodes, std::vector<Candidate>& heap, int32_t left,
               int32_t right) const {
    if (left < 0 || right < 0) return;
    const uint32_t a = nodes[static_cast<size_t>(left)].symbol;
    const uint32_t b = nodes[static_cast<size_t>(right)].symbol;
    if (const PairTable::Entry* entry = pairs_.find(a, b)) {
      heap.push_back({entry->score, left, right, a, b, entry->joined});
      std::push_heap(heap.begin(), heap.end());
    }
  }

  uint32_t character_symbol(std::string_view character) const {
    if (character.size() == 1) return ascii_[static_cast<uint8_t>(character[0])];
    const auto found = characters_.find(packed(character));
    return found == characters_.end() ? kNoSymbol : found->second;
  }

  static uint32_t packed(std::string_view character) {
    uint32_t bytes = 0;
    std::memcpy(&bytes, character.data(), character.size());
    return bytes;
  }

  std::vector<PairTable::Entry> read_pieces(const SentencePieceModel& model);

  std::vector<uint32_t> symbol_ids_;  // kNoSymbol: a character that is no piece of its own
  std::array<uint32_t, 256> ascii_, byte_ids_;
  std::unordered_map<uint32_t, uint32_t> characters_;  // beyond ASCII
  bool words_start_with_spaces_ = true, newlines_stand_alone_ = true;
  PairTable pairs_;
};

// The text of a piece: marks are spaces.
std::string piece_text(std::string_view piece) {
  std::string text;
  for (size_t at = 0; at < piece.size();) {
    const bool mark = piece.substr(at).starts_with(kSpaceMark);
    text.push_back(mark ? ' ' : piece[at]);
    at += mark ? kSpaceMark.size() : 1;
  }
  return text;
}

std::optional<uint8_t> byte_of_piece(const std::string& text) {  // "<0x0A>"
  unsigned value = 0;
  if (text.size() != 6 || std::sscanf(text.c_str(), "<0x%2X>", &value) != 1) return std::nullopt;
  return static_cast<uint8_t>(value);
}

std::vector<PairTable::Entry> Merger::read_pieces(const SentencePieceModel& model) {
  ascii_.fill(kNoSymbol);
  byte_ids_.fill(kNoSymbol);
  std::unordered_map<std::string, uint32_t> symbols;
  const auto symbol_of = [&](const std::string& text, uint32_t id) {
    const auto [entry, is_new] = symbols.try_emplace(text, symbol_ids_.size());
    if (is_new) symbol_ids_.push_back(id);
    return entry->second;
  };
  std::vector<std::pair<std::string, float>> pieces;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePieceModel::Piece& piece = model.pieces[id];
    if (piece.kind == SentencePieceModel::Kind::kByte) {
      if (const auto byte = byte_of_piece(piece.text)) byte_ids_[*byte] = static_cast<uint32_t>(id);
    } else if (piece.kind == SentencePieceModel::Kind::kNormal) {
      pieces.emplace_back(piece_text(piece.text), piece.score);
      symbol_of(pieces.back().first, static_cast<uint32_t>(id));
    }
  }
  std::vector<PairTable::Entry> pairs;
  for (const auto& [text, score] : pieces) {
    std::vector<size_t> starts;
    for (size_t at = 0; at < text.size(); at += character_size(std::string_view(text).substr(at)))
      starts.push_back(at);
    for (size_t i = 0; i < starts.size(); ++i) {
      const size_t end = i + 1 < starts.size() ? starts[i + 1] : text.size();
      const std::string character = text.substr(starts[i], end - starts[i]);
      const uint32_t symbol = symbol_of(character, kNoSymbol);
      if (character.size() == 1)
        ascii_[static_cast<uint8_t>(character[0])] = symbol;
      else
        characters_[packed(character)] = symbol;
      if (i == 0) continue;
      if (text[starts[i]] == ' ' && text[starts[i] - 1] != ' ') words_start_with_spaces_ = false;
      if ((text[starts[i]] == '\n') != (text[starts[i] - 1] == '\n')) newlines_stand_alone_ = false;
    }
  }
  for (const auto& [text, score] : pieces)
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = symbols.find(text.substr(0, cut)), right = symbols.find(text.substr(cut));
      if (left != symbols.end() && right != symbols.end())
        pairs.push_back({PairTable::key(left->second, right->second), symbols.at(text), score});
    }
  return pairs;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view file, const std::string& name,
                         const SentencePieceModel& model)
      : file_(file), merger_(model), owner_(next_owner()) {
    info_ = {.name = name,
             .sha256 = sha256_hex(file),
             .vocab_size = static_cast<int64_t>(model.pieces.size()),
             .bos = model.bos,
             .eos = model.eos};
    for (const SentencePieceModel::Piece& piece : model.pieces) {
      const bool has_text = piece.kind == SentencePieceModel::Kind::kNormal;
      if (has_text) text_ids_.push_back(static_cast<uint32_t>(texts_.size()));
      texts_.push_back(has_text ? piece_text(piece.text) : "");
    }
    for (size_t byte = 0; byte < 256; ++byte)
      texts_[merger_.byte_ids()[byte]] = std::string(1, static_cast<char>(byte));
  }

  const TokenizerInfo& info() const override { return info_; }
  const std::string& model_file() const override { return file_; }
  std::vector<uint32_t> text_ids() const override { return text_ids_; }

  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> ids;
    ids.reserve(text.size() / 3);
    WordCache& cache = WordCache::of(owner_);
    while (!text.empty()) {
      const std::string_view word = text.substr(0, word_size(text));
      text.remove_prefix(word.size());
      encode_word(word, cache, ids);
    }
    return ids;
  }

  std::string decode(std::span<const uint32_t> ids) const override {
    std::string text;
    for (const uint32_t id : ids)
      if (id < texts_.size()) text += texts_[id];
    return text;
  }

 private:
  static uint64_t next_owner() {
    static std::atomic<uint64_t> last{0};
    return ++last;
  }

  void encode_word(std::string_view word, WordCache& cache, std::vector<uint32_t>& ids) const {
    if (word.size() > std::tuple_size_v<decltype(WordCache::Slot::word)>)
      return merger_.encode(word, ids);
    WordCache::Slot& slot = cache.slot(word);
    if (!WordCache::holds(slot, word)) {
      const size_t before = ids.size();
      merger_.encode(word, ids);
      if (ids.size() - before > slot.ids.size()) return;
      slot.size = static_cast<uint8_t>(word.size());
      slot.n_ids = static_cast<uint8_t>(ids.size() - before);
      std::copy(word.begin(), word.end(), slot.word.begin());
      std::copy(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end(), slot.ids.begin());
      return;
    }
    ids.insert(ids.end(), slot.ids.begin(), slot.ids.begin() + slot.n_ids);
  }

  // Bytes up to the first place over which no piece reaches: before spaces that follow something
  // else, around newlines.
  size_t word_size(std::string_view text) const {
    const size_t longest = std::min(text.size(), kMaxStretch);
    for (size_t at = 1; at < longest; ++at) {
      if (text[at] == ' ' && text[at - 1] != ' ' && merger_.words_start_with_spaces()) return at;
      if ((text[at] == '\n') != (text[at - 1] == '\n') && merger_.newlines_stand_alone()) return at;
    }
    size_t end = longest;  // back to the start of a character
    while (end < text.size() && end > 1 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
    return end;
  }

  std::string file_;
  TokenizerInfo info_;
  Merger merger_;
  uint64_t owner_;                  // of entries in the word caches
  std::vector<std::string> texts_;  // by id; empty for control and unknown pieces
  std::vector<uint32_t> text_ids_;
};

void require_lossless(const SentencePieceModel& model, const std::string& name) {
  using Kind = SentencePieceModel::Kind;
  if (model.algorithm != SentencePieceModel::Algorithm::kBpe)
    throw Error("{}: is a SentencePiece model, but not of kind BPE; train one with spm:VOCAB",
                name);
  if (model.rewrites_characters || model.removes_spaces || !model.escapes_spaces)
    throw Error(
        "{}: rewrites the text (normalisation or removal of spaces), so the tokens would not give "
        "it back; train "
        "the model with --normalization_rule_name=identity --remove_extra_whitespaces=false, or "
        "use spm:VOCAB",
        name);
  int n_bytes = 0;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    n_bytes += piece.kind == Kind::kByte && byte_of_piece(piece.text);
    if (piece.kind == Kind::kUserDefined || piece.kind == Kind::kUnused)
      throw Error("{}: piece '{}' is user-defined or unused, which ceiling does not support", name,
                  piece.text);
  }
  if (n_bytes != 256)
    throw Error(
        "{}: has no byte fallback, so rare characters would be lost; train the model with "
        "--byte_fallback",
        name);
  const auto n_pieces = static_cast<int64_t>(model.pieces.size());
  for (const int64_t id : {model.bos, model.eos})
    if (id >= n_pieces)
      throw Error("{}: BOS or EOS is {}, beyond the {} pieces", name, id, n_pieces);
  if (model.eos < 0)
    throw Error("{}: has no end-of-sentence piece, which ends every document", name);
}

}  // namespace

std::shared_ptr<const Tokenizer> sentencepiece_tokenizer(std::string_view model,
                                                         const std::string& name) {
  const SentencePieceModel parsed = parse_sentencepiece_model(model, name);
  require_lossless(parsed, name);
  return std::make_shared<SentencePieceTokenizer>(model, name, parsed);
}

}  // namespace ceiling
