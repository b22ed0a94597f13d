#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/text.h"
#include "data/manifest.h"
#include "data/shard.h"
#include "data/shard_file.h"

namespace ceiling {

const char* split_name(Split split) { return split == Split::kTrain ? "train" : "valid"; }

struct DatasetWriter::Impl {
  std::string path;
  DatasetWriterOptions options;
  PendingFolder folder;
  Manifest manifest;
  std::array<std::optional<ShardWriter>, 2> open_shard;
  std::array<SplitSummary, 2> sum;

  Impl(const std::string& path, const TokenizerInfo& tokenizer, const DatasetWriterOptions& options)
      : path(path), options(options), folder(path) {
    manifest.tokenizer = tokenizer;
  }

  ShardWriter& shard(Split split) {
    auto& writer = open_shard[static_cast<size_t>(split)];
    if (!writer) {
      const std::string name =
          fmt::format("{}-{:05}.h5", split_name(split), manifest.of(split).size());
      writer.emplace(folder.path(), name, manifest.tokenizer, split);
    }
    return *writer;
  }

  void close_shard(Split split) {
    auto& writer = open_shard[static_cast<size_t>(split)];
    manifest.shards[static_cast<size_t>(split)].push_back(writer->finish());
    writer.reset();
  }
};

DatasetWriter::DatasetWriter(const std::string& path, const TokenizerInfo& tokenizer,
                             const DatasetWriterOptions& options) {
  check_tokenizer(tokenizer, path);
  if (fs::exists(path)) {
    if (!options.replace)
      throw Error("{}: exists already; choose another folder or remove it", path);
    if (!fs::exists(fs::path(path) / kManifestName))
      throw Error("{}: is not a dataset (it has no {}), so it is not replaced", path,
                  kManifestName);
  }
  impl_ = std::make_unique<Impl>(path, tokenizer, options);
}

DatasetWriter::~DatasetWriter() = default;

void DatasetWriter::append(Split split, std::span<const uint32_t> tokens) {
  impl_->shard(split).append(tokens);
  impl_->sum[static_cast<size_t>(split)].n_tokens += static_cast<int64_t>(tokens.size());
}

void DatasetWriter::end_document(Split split, int64_t n_text_bytes) {
  ShardWriter& shard = impl_->shard(split);
  shard.end_document(n_text_bytes);
  SplitSummary& sum = impl_->sum[static_cast<size_t>(split)];
  sum.n_documents += 1;
  sum.n_text_bytes += n_text_bytes;
  if (shard.n_tokens() >= impl_->options.shard_tokens) impl_->close_shard(split);
}

void DatasetWriter::add_document(Split split, std::span<const uint32_t> tokens,
                                 int64_t n_text_bytes) {
  append(split, tokens);
  end_document(split, n_text_bytes);
}

void DatasetWriter::add_file(const std::string& name, std::string_view content) {
  File file(impl_->folder.path() + "/" + name, "wb");
  file.write(content);
  file.close();
  impl_->manifest.files[name] = {static_cast<int64_t>(content.size()), sha256_hex(content)};
}

SplitSummary DatasetWriter::summary(Split split) const {
  SplitSummary sum = impl_->sum[static_cast<size_t>(split)];
  const bool one_open = impl_->open_shard[static_cast<size_t>(split)].has_value();
  sum.n_shards = static_cast<int64_t>(impl_->manifest.of(split).size()) + (one_open ? 1 : 0);
  return sum;
}

void DatasetWriter::commit(const nlohmann::json& provenance) {
  Manifest& manifest = impl_->manifest;
  for (const Split split : kSplits)
    if (impl_->open_shard[static_cast<size_t>(split)]) impl_->close_shard(split);
  if (manifest.of(Split::kTrain).empty() && manifest.of(Split::kValid).empty())
    throw Error("{}: no document was found, so there is nothing to write", impl_->path);
  manifest.provenance = provenance;
  const std::string provenance_text = provenance.dump();
  for (auto& shards : manifest.shards)
    for (ShardRecord& shard : shards) {
      const std::string file = impl_->folder.path() + "/" + shard.file;
      add_provenance(file, provenance_text);
      shard.size_bytes = static_cast<int64_t>(fs::file_size(file));
    }
  File file(impl_->folder.path() + "/" + kManifestName, "wb");
  file.write(to_json(manifest).dump(2) + "\n");
  file.close();
  impl_->folder.commit(impl_->options.replace);
}

}  // namespace ceiling
