// manifest.json of a dataset: which shards there are and what they hold. Written last; a folder
// without it is no dataset.
#pragma once
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/shard.h"
#include "data/shard_file.h"

namespace ceiling {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr std::array<Split, 2> kSplits = {Split::kTrain, Split::kValid};

struct Manifest {
  struct ExtraFile {
    int64_t size_bytes = 0;
    std::string sha256;
  };
  TokenizerInfo tokenizer;
  std::array<std::vector<ShardRecord>, 2> shards;  // by Split, in stream order
  std::map<std::string, ExtraFile> files;          // beside the shards, by name
  nlohmann::json provenance = nlohmann::json::object();

  const std::vector<ShardRecord>& of(Split split) const {
    return shards[static_cast<size_t>(split)];
  }
  SplitSummary summary(Split split) const;
  // SHA-256 over what decides tokens, targets and documents: tokenizer, shard hashes and their
  // order.
  std::string fingerprint() const;
};

nlohmann::json to_json(const Manifest& manifest);
// Error naming `path` and the key unless everything is there, of its type, in range, and the counts
// and the fingerprint agree.
Manifest parse_manifest(const nlohmann::json& json, const std::string& path);

// Error unless the vocabulary can be stored and BOS and EOS lie in it.
void check_tokenizer(const TokenizerInfo& tokenizer, const std::string& where);

}  // namespace ceiling
