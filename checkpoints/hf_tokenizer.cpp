// tokenizer.json by hand: SentencePiece's BPE and the byte tokenizer as `tokenizers` models.
//
// SentencePiece merges the neighbours whose concatenation has the highest score, leftmost first;
// `tokenizers` merges the pair of lowest rank, leftmost first. Hence one merge per way to cut a
// piece in two, ranked by the score of the whole. Tokens carry the text they stand for, spaces as
// spaces: no normaliser is needed, and a U+2581 in the text stays what it is (it falls back to
// bytes).
#include "checkpoints/hf_tokenizer.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/hashed_file.h"
#include "checkpoints/hf.h"
#include "data/sentencepiece_model.h"

namespace ceiling {

namespace {

using nlohmann::json;

constexpr char kOwnKey[] = "ceiling_tokenizer";  // in tokenizer_config.json; others pass it on

void write_json(const std::string& path, const json& content) {
  write_hashed(path, content.dump(2) + "\n");
}

std::string text_of(const Tokenizer& tokenizer, int64_t id) {
  const auto token = static_cast<uint32_t>(id);
  return tokenizer.decode(std::span(&token, 1));
}

std::string to_utf8(uint32_t code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 63))};
}

// GPT-2's printable stand-ins for the 256 bytes, which the ByteLevel steps of `tokenizers` use.
std::array<std::string, 256> byte_letters() {
  std::array<std::string, 256> letters;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    letters[byte] = to_utf8(printable ? byte : next++);
  }
  return letters;
}

// What differs between the two kinds of tokenizer.
struct Description {
  std::vector<std::string> tokens;  // by id
  json merges = json::array();
  json pre_tokenizer, decoder;  // null: none
  std::string unk;              // empty: none
  bool byte_fallback = false;
};

Description describe_bytes(const Tokenizer& tokenizer) {
  const TokenizerInfo& info = tokenizer.info();
  const auto letters = byte_letters();
  Description d;
  for (int64_t id = 0; id < info.vocab_size; ++id) {
    const std::string text = text_of(tokenizer, id);
    d.tokens.push_back(id == info.bos      ? "<s>"
                       : id == info.eos    ? "</s>"
                       : text.size() == 1u ? letters[static_cast<unsigned char>(text[0])]
                                           : fmt::format("<unused {}>", id));
  }
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  d.pre_tokenizer = byte_level;
  d.decoder = byte_level;
  return d;
}

struct Merge {
  float score;
  size_t cut;
  std::string left, right;
};

// The merges of `tokenizers` start from tokens, ours from characters: a piece with a character that
// is no piece itself would never be built there.
void require_characters(const std::map<std::string, float>& scores) {
  for (const auto& [text, score] : scores) {
    for (size_t begin = 0, end = 1; begin < text.size(); begin = end++) {
      while (end < text.size() && (text[end] & 0xc0) == 0x80) ++end;
      const std::string character = text.substr(begin, end - begin);
      if (!scores.count(character))
        throw Error("export: the tokenizer has a piece '{}', but none for its character '{}'", text,
                    character);
    }
  }
}

Description describe_sentencepiece(const Tokenizer& tokenizer) {
  using Kind = SentencePieceModel::Kind;
  const SentencePieceModel model =
      parse_sentencepiece_model(tokenizer.model_file(), tokenizer.info().name);
  Description d;
  d.byte_fallback = true;
  d.decoder = {{"type", "Sequence"},
               {"decoders", json::array({{{"type", "ByteFallback"}}, {{"type", "Fuse"}}})}};
  std::map<std::string, float> scores;  // of the pieces that take part in merging, by text
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    const bool has_text = piece.kind == Kind::kNormal;
    const auto id = static_cast<int64_t>(d.tokens.size());
    d.tokens.push_back(has_text ? text_of(tokenizer, id) : piece.text);
    if (has_text) scores.emplace(d.tokens.back(), piece.score);
    if (piece.kind == Kind::kUnknown) d.unk = piece.text;
  }
  require_characters(scores);
  std::vector<Merge> merges;
  for (const auto& [text, score] : scores) {
    for (size_t cut = 1; cut < text.size(); ++cut) {
      std::string left = text.substr(0, cut), right = text.substr(cut);
      if (scores.count(left) && scores.count(right))
        merges.push_back({score, cut, std::move(left), std::move(right)});
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return a.score != b.score ? a.score > b.score : a.cut < b.cut;
  });
  for (const Merge& merge : merges) d.merges.push_back({merge.left, merge.right});
  return d;
}

json special_token(const std::string& text, int64_t id) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

json put_before(const std::string& token, int64_t id) {
  const json bos = {{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const json first = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json second = {{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
  return {{"type", "TemplateProcessing"},
          {"single", {bos, first}},
          {"pair", {bos, first, bos, second}},
          {"special_tokens", {{token, {{"id", token}, {"ids", {id}}, {"tokens", {token}}}}}}};
}

// -1 for a token that does not exist. Some models list several ends: the first.
int64_t token_id(const json& config, const char* key) {
  json id = config.value(key, json());
  if (id.is_array() && !id.empty()) id = json(id[0]);
  return id.is_number_integer() ? id.get<int64_t>() : -1;
}

}  // namespace

void write_hf_tokenizer(const std::string& folder, const Tokenizer& tokenizer,
                        const HfTokenizerOptions& options) {
  const TokenizerInfo& info = tokenizer.info();
  const bool bytes = tokenizer.model_file().empty();
  const Description d = bytes ? describe_bytes(tokenizer) : describe_sentencepiece(tokenizer);
  json vocab = json::object();
  for (size_t id = 0; id < d.tokens.size(); ++id) vocab[d.tokens[id]] = id;
  if (vocab.size() != d.tokens.size()) throw Error("export: two tokens have the same text");

  json added = json::array(), names = json::object();
  const auto special = [&](const char* role, int64_t id) {
    if (id < 0) return;
    const std::string& text = d.tokens.at(static_cast<size_t>(id));
    added.push_back(special_token(text, id));
    names[role] = text;
  };
  if (!d.unk.empty()) special("unk_token", vocab.at(d.unk));
  special("bos_token", info.bos);
  special("eos_token", info.eos);

  const bool bos = options.bos && info.bos >= 0;
  const json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", d.unk.empty() ? json() : json(d.unk)},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", d.byte_fallback},
                      {"ignore_merges", false},
                      {"vocab", vocab},
                      {"merges", d.merges}};
  write_json(folder + "/tokenizer.json",
             {{"version", "1.0"},
              {"truncation", nullptr},
              {"padding", nullptr},
              {"added_tokens", added},
              {"normalizer", nullptr},
              {"pre_tokenizer", d.pre_tokenizer},
              {"post_processor", bos ? put_before(names.at("bos_token"), info.bos) : json()},
              {"decoder", d.decoder},
              {"model", model}});

  json config = names;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["clean_up_tokenization_spaces"] = false;
  config["split_special_tokens"] = true;  // "<s>" in a text is text, as in training
  if (options.context > 0) config["model_max_length"] = options.context;
  config[kOwnKey] = {{"name", info.name}, {"bos", bos}};
  write_json(folder + "/tokenizer_config.json", config);
  write_json(folder + "/special_tokens_map.json", names);
  if (!bytes) write_hashed(folder + "/tokenizer.model", tokenizer.model_file());
}

HfTokenizer read_hf_tokenizer(const std::string& folder, const nlohmann::json& config,
                              bool ids_only) {
  const auto read_if_there = [&](const char* name) {
    const std::string path = folder + "/" + name;
    return fs::exists(path) ? read_file(path) : "";
  };
  const json theirs = json::parse(read_if_there("tokenizer_config.json"), nullptr, false);
  json own = theirs.is_object() ? theirs.value(kOwnKey, json()) : json();
  if (!own.is_object() || !own.value("name", json()).is_string() ||
      !own.value("bos", json()).is_boolean())
    own = {{"name", ""}};
  const int64_t vocab_size = config.value("vocab_size", int64_t{0});
  HfTokenizer found;
  if (!ids_only) found.model_file = read_if_there("tokenizer.model");
  const std::string name = own.at("name");
  if (name == "byte" && !ids_only)
    found.info = byte_tokenizer()->info();
  else if (!found.model_file.empty())
    found.info = sentencepiece_tokenizer(found.model_file,
                                         name.empty() ? fmt::format("spm:{}", vocab_size) : name)
                     ->info();
  else
    found.info = {.name = "hf:" + fs::path(folder).lexically_normal().filename().string(),
                  .sha256 = sha256_hex(read_if_there("tokenizer.json")),
                  .vocab_size = vocab_size,
                  .bos = token_id(config, "bos_token_id"),
                  .eos = token_id(config, "eos_token_id")};
  if (found.info.vocab_size > vocab_size)
    throw Error("{}: the tokenizer has {} ids, the model {}", folder, found.info.vocab_size,
                vocab_size);
  found.bos = own.value("bos", found.info.bos >= 0);
  return found;
}

}  // namespace ceiling
