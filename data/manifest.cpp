#include "data/manifest.h"

#include <limits>
#include <set>

#include "base/error.h"
#include "base/hash.h"

namespace ceiling {

namespace {

using nlohmann::json;

constexpr const char* kFormat = "ceiling-dataset";
constexpr int64_t kMaxVocab = std::numeric_limits<int32_t>::max();  // batches carry int32

const char* dtype_name(int64_t vocab_size) {
  return vocab_size <= kMaxVocabU16 ? "uint16" : "uint32";
}

// Reads keys of one JSON object, with errors that name file and key.
class Reader {
 public:
  Reader(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw Error("{}: is not an object", where_);
  }
  const std::string& where() const { return where_; }
  const json& value(const char* key) const {
    const auto at = object_.find(key);
    if (at == object_.end()) throw Error("{}: '{}' is missing", where_, key);
    return *at;
  }
  int64_t count(const char* key, int64_t low = 0) const {
    const json& v = value(key);
    const bool fits =
        v.is_number_integer() &&
        !(v.is_number_unsigned() && v.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
    if (!fits || v.get<int64_t>() < low)
      throw Error("{}: '{}' is {}, an integer of at least {} is needed", where_, key, v.dump(),
                  low);
    return v.get<int64_t>();
  }
  std::string text(const char* key) const {
    const json& v = value(key);
    if (!v.is_string()) throw Error("{}: '{}' is {}, a text is needed", where_, key, v.dump());
    return v.get<std::string>();
  }
  std::string sha256(const char* key) const {
    const std::string hex = text(key);
    if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
      throw Error("{}: '{}' is '{}', 64 hexadecimal digits are needed", where_, key, hex);
    return hex;
  }

 private:
  const json& object_;
  std::string where_;
};

int64_t checked_sum(int64_t a, int64_t b, const std::string& where) {
  int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum))
    throw Error("{}: the counts of its shards overflow", where);
  return sum;
}

// A file name that stays inside the dataset's folder.
std::string plain_name(const std::string& name, const std::string& where) {
  if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos)
    throw Error("{}: '{}' is not the name of a file in this folder", where, name);
  return name;
}

ShardRecord parse_shard(const json& object, const std::string& where, int64_t item_bytes) {
  const Reader read(object, where);
  ShardRecord shard;
  shard.file = plain_name(read.text("file"), where);
  shard.n_tokens = read.count("tokens", 1);
  shard.n_documents = read.count("documents", 1);
  shard.n_text_bytes = read.count("text_bytes");
  shard.tokens_sha256 = read.sha256("tokens_sha256");
  shard.doc_offsets_sha256 = read.sha256("doc_offsets_sha256");
  shard.size_bytes = read.count("size_bytes", 1);
  if (shard.n_tokens > shard.size_bytes / item_bytes)
    throw Error("{}: {} tokens do not fit into a file of {} bytes", where, shard.n_tokens,
                shard.size_bytes);
  if (shard.n_documents > shard.n_tokens)
    throw Error("{}: {} documents in {} tokens", where, shard.n_documents, shard.n_tokens);
  return shard;
}

}  // namespace

SplitSummary Manifest::summary(Split split) const {
  SplitSummary sum;
  bool all_known = true;
  for (const ShardRecord& shard : of(split)) {
    sum.n_tokens += shard.n_tokens;
    sum.n_documents += shard.n_documents;
    sum.n_text_bytes += shard.n_text_bytes;
    sum.n_shards += 1;
    all_known = all_known && shard.n_text_bytes > 0;
  }
  if (!all_known) sum.n_text_bytes = 0;
  return sum;
}

std::string Manifest::fingerprint() const {
  Sha256 hash;
  hash.update(fmt::format("ceiling-dataset {}\n{} {} {} {} {}\n", kDataFormatVersion,
                          tokenizer.name, tokenizer.sha256, tokenizer.vocab_size, tokenizer.bos,
                          tokenizer.eos));
  for (const Split split : kSplits)
    for (const ShardRecord& shard : of(split))
      hash.update(fmt::format("{} {} {} {} {} {}\n", split_name(split), shard.n_tokens,
                              shard.n_documents, shard.n_text_bytes, shard.tokens_sha256,
                              shard.doc_offsets_sha256));
  return hash.hex();
}

json to_json(const Manifest& manifest) {
  const TokenizerInfo& t = manifest.tokenizer;
  json splits = json::object(), files = json::object();
  for (const Split split : kSplits) {
    json shards = json::array();
    for (const ShardRecord& shard : manifest.of(split))
      shards.push_back({{"file", shard.file},
                        {"tokens", shard.n_tokens},
                        {"documents", shard.n_documents},
                        {"text_bytes", shard.n_text_bytes},
                        {"tokens_sha256", shard.tokens_sha256},
                        {"doc_offsets_sha256", shard.doc_offsets_sha256},
                        {"size_bytes", shard.size_bytes}});
    const SplitSummary sum = manifest.summary(split);
    splits[split_name(split)] = {{"tokens", sum.n_tokens},
                                 {"documents", sum.n_documents},
                                 {"text_bytes", sum.n_text_bytes},
                                 {"shards", shards}};
  }
  for (const auto& [name, file] : manifest.files)
    files[name] = {{"size_bytes", file.size_bytes}, {"sha256", file.sha256}};
  return {{"format", kFormat},
          {"version", kDataFormatVersion},
          {"tokenizer",
           {{"name", t.name},
            {"sha256", t.sha256},
            {"vocab_size", t.vocab_size},
            {"bos", t.bos},
            {"eos", t.eos}}},
          {"dtype", dtype_name(t.vocab_size)},
          {"splits", splits},
          {"files", files},
          {"fingerprint", manifest.fingerprint()},
          {"provenance", manifest.provenance}};
}

Manifest parse_manifest(const json& object, const std::string& path) {
  const Reader read(object, path);
  if (const std::string format = read.text("format"); format != kFormat)
    throw Error("{}: format is '{}', '{}' is needed", path, format, kFormat);
  if (const int64_t version = read.count("version"); version != kDataFormatVersion)
    throw Error("{}: format version {} is unknown, this build reads version {}", path, version,
                kDataFormatVersion);
  Manifest manifest;
  const Reader tokenizer(read.value("tokenizer"), path + ": tokenizer");
  manifest.tokenizer = {tokenizer.text("name"), tokenizer.text("sha256"),
                        tokenizer.count("vocab_size", 1), tokenizer.count("bos", -1),
                        tokenizer.count("eos", -1)};
  check_tokenizer(manifest.tokenizer, path);
  const std::string dtype = read.text("dtype"),
                    wanted_dtype = dtype_name(manifest.tokenizer.vocab_size);
  if (dtype != wanted_dtype)
    throw Error("{}: dtype is '{}', a vocabulary of {} is stored as '{}'", path, dtype,
                manifest.tokenizer.vocab_size, wanted_dtype);
  const int64_t item_bytes = dtype == "uint16" ? 2 : 4;

  const Reader splits(read.value("splits"), path + ": splits");
  std::set<std::string> names;
  for (const Split split : kSplits) {
    const Reader part(splits.value(split_name(split)),
                      fmt::format("{}: splits.{}", path, split_name(split)));
    const json& list = part.value("shards");
    if (!list.is_array()) throw Error("{}: 'shards' is not a list", part.where());
    SplitSummary sum;
    for (size_t i = 0; i < list.size(); ++i) {
      const ShardRecord shard =
          parse_shard(list[i], fmt::format("{}.shards[{}]", part.where(), i), item_bytes);
      if (!names.insert(shard.file).second) throw Error("{}: lists '{}' twice", path, shard.file);
      sum.n_tokens = checked_sum(sum.n_tokens, shard.n_tokens, part.where());
      sum.n_documents = checked_sum(sum.n_documents, shard.n_documents, part.where());
      sum.n_text_bytes = checked_sum(sum.n_text_bytes, shard.n_text_bytes, part.where());
      manifest.shards[static_cast<size_t>(split)].push_back(shard);
    }
    sum = manifest.summary(split);
    const auto agree = [&](const char* key, int64_t found) {
      if (part.count(key) != found)
        throw Error("{}: '{}' is {}, its shards hold {}", part.where(), key, part.count(key),
                    found);
    };
    agree("tokens", sum.n_tokens);
    agree("documents", sum.n_documents);
    agree("text_bytes", sum.n_text_bytes);
  }
  const json& files = read.value("files");
  if (!files.is_object()) throw Error("{}: 'files' is not an object", path);
  for (const auto& [name, value] : files.items()) {
    const Reader file(value, fmt::format("{}: files.{}", path, name));
    manifest.files[plain_name(name, file.where())] = {file.count("size_bytes"),
                                                      file.sha256("sha256")};
  }
  if (read.text("fingerprint") != manifest.fingerprint())
    throw Error("{}: the fingerprint does not fit its shards: the file was changed or damaged",
                path);
  manifest.provenance = read.value("provenance");
  return manifest;
}

void check_tokenizer(const TokenizerInfo& tokenizer, const std::string& where) {
  if (tokenizer.vocab_size < 1 || tokenizer.vocab_size > kMaxVocab)
    throw Error("{}: vocabulary size {} is out of range, must be from 1 to {}", where,
                tokenizer.vocab_size, kMaxVocab);
  const auto inside = [&](const char* name, int64_t id) {
    if (id < -1 || id >= tokenizer.vocab_size)
      throw Error("{}: {} is {}, must be below the vocabulary size {}, or -1 for none", where, name,
                  id, tokenizer.vocab_size);
  };
  inside("bos", tokenizer.bos);
  inside("eos", tokenizer.eos);
}

}  // namespace ceiling
