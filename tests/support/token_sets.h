// Small datasets for tests.
#pragma once
#include <string>
#include <vector>

#include "base/random.h"
#include "data/shard.h"

namespace ceiling {

inline TokenizerInfo test_tokenizer(int64_t vocab_size) {
  return {
      .name = "test", .sha256 = std::string(64, 'a'), .vocab_size = vocab_size, .bos = 0, .eos = 1};
}

using Documents = std::vector<std::vector<uint32_t>>;

// `n` documents of `shortest` to `longest` random tokens.
inline Documents random_documents(int64_t n, int64_t shortest, int64_t longest, int64_t vocab_size,
                                  uint64_t seed) {
  const RandomStream random(seed, "test/documents");
  Documents documents;
  uint64_t index = 0;
  for (int64_t d = 0; d < n; ++d) {
    const auto extra = random.bits(index++) % static_cast<uint64_t>(longest - shortest + 1);
    auto& document = documents.emplace_back(static_cast<size_t>(shortest) + extra);
    for (uint32_t& token : document)
      token = static_cast<uint32_t>(random.bits(index++) % static_cast<uint64_t>(vocab_size));
  }
  return documents;
}

inline void write_dataset(const std::string& path, const Documents& documents, int64_t vocab_size,
                          const DatasetWriterOptions& options) {
  DatasetWriter writer(path, test_tokenizer(vocab_size), options);
  for (const auto& document : documents)
    writer.add_document(Split::kTrain, document, static_cast<int64_t>(3 * document.size()));
  writer.commit({{"source", "random tokens"}});
}

}  // namespace ceiling
