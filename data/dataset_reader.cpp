#include <algorithm>
#include <list>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "data/manifest.h"
#include "data/shard.h"
#include "data/shard_file.h"

namespace ceiling {

namespace {
constexpr size_t kOpenShards = 64;  // file descriptors kept; opening one again costs microseconds
}  // namespace

struct DatasetReader::Impl {
  std::string path;
  Manifest manifest;
  nlohmann::json json;
  std::array<std::vector<ShardFile>, 2> shards;
  std::array<std::vector<int64_t>, 2>
      shard_first;  // position of each shard's first token in its split, then the end
  std::list<ShardFile*> open_shards;  // most recently used first

  explicit Impl(const std::string& folder) : path(folder) {
    const std::string manifest_path = path + "/" + kManifestName;
    if (!fs::is_directory(path)) throw Error("{}: there is no such dataset folder", path);
    if (!fs::exists(manifest_path))
      throw Error("{}: is not a dataset: it has no {} (prepare or import one)", path,
                  kManifestName);
    try {
      json = nlohmann::json::parse(read_file(manifest_path));
    } catch (const nlohmann::json::exception& problem) {
      throw Error("{}: is not JSON: {}", manifest_path, problem.what());
    }
    manifest = parse_manifest(json, manifest_path);
    for (const Split split : kSplits) {
      auto& first = shard_first[static_cast<size_t>(split)];
      first.push_back(0);
      for (const ShardRecord& shard : manifest.of(split)) {
        check_size(shard.file, shard.size_bytes);
        shards[static_cast<size_t>(split)].emplace_back(path, shard, manifest.tokenizer, split);
        first.push_back(first.back() + shard.n_tokens);
      }
    }
    for (const auto& [name, file] : manifest.files) check_size(name, file.size_bytes);
  }

  void check_size(const std::string& name, int64_t size_bytes) const {
    const std::string file = path + "/" + name;
    std::error_code failure;
    const uintmax_t found = fs::file_size(file, failure);
    if (failure)
      throw Error("{}: cannot open the file that the manifest lists: {}", file, failure.message());
    if (found != static_cast<uintmax_t>(size_bytes))
      throw Error(
          "{}: file is {} bytes, the manifest says {}: truncated or changed; restore or prepare it "
          "again",
          file, found, size_bytes);
  }

  // The shard, open, the least recently used one being closed for it.
  ShardFile& opened(ShardFile& shard) {
    if (!open_shards.empty() && open_shards.front() == &shard) return shard;
    const auto at = std::find(open_shards.begin(), open_shards.end(), &shard);
    if (at != open_shards.end()) {
      open_shards.splice(open_shards.begin(), open_shards, at);
      return shard;
    }
    shard.open();
    open_shards.push_front(&shard);
    if (open_shards.size() > kOpenShards) {
      open_shards.back()->close();
      open_shards.pop_back();
    }
    return shard;
  }

  // Calls use(shard, first, last, shift) for each shard's part of [first, last): positions inside
  // the shard, and what to add to get positions in the stream.
  template <class Use>
  void for_parts(Split split, int64_t first, int64_t last, const Use& use) {
    const auto& starts = shard_first[static_cast<size_t>(split)];
    if (first < 0 || first > last || last > starts.back())
      throw Error("{}: positions {} to {} of split {} are asked for, it has {} tokens", path, first,
                  last, split_name(split), starts.back());
    auto index = static_cast<size_t>(std::upper_bound(starts.begin(), starts.end(), first) -
                                     starts.begin()) -
                 1;
    for (; first < last; ++index) {
      const int64_t end = std::min(last, starts[index + 1]);
      use(opened(shards[static_cast<size_t>(split)][index]), first - starts[index],
          end - starts[index], starts[index]);
      first = end;
    }
  }
};

DatasetReader::DatasetReader(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
DatasetReader::~DatasetReader() = default;

const std::string& DatasetReader::path() const { return impl_->path; }
const TokenizerInfo& DatasetReader::tokenizer() const { return impl_->manifest.tokenizer; }
const nlohmann::json& DatasetReader::manifest() const { return impl_->json; }
SplitSummary DatasetReader::summary(Split split) const { return impl_->manifest.summary(split); }
std::string DatasetReader::fingerprint() const { return impl_->manifest.fingerprint(); }

void DatasetReader::read_tokens(Split split, int64_t first, std::span<uint32_t> out) {
  size_t done = 0;
  impl_->for_parts(split, first, first + static_cast<int64_t>(out.size()),
                   [&](ShardFile& shard, int64_t from, int64_t to, int64_t) {
                     const auto n = static_cast<size_t>(to - from);
                     shard.read_tokens(from, out.subspan(done, n));
                     done += n;
                   });
}

std::vector<int64_t> DatasetReader::document_starts(Split split, int64_t first, int64_t last) {
  std::vector<int64_t> starts;
  impl_->for_parts(split, first, last,
                   [&](ShardFile& shard, int64_t from, int64_t to, int64_t shift) {
                     shard.document_starts(from, to, shift, starts);
                   });
  return starts;
}

std::string DatasetReader::shard_at(Split split, int64_t position) const {
  const auto& starts = impl_->shard_first[static_cast<size_t>(split)];
  const auto index = std::upper_bound(starts.begin(), starts.end(), position) - starts.begin() - 1;
  return impl_->shards[static_cast<size_t>(split)].at(static_cast<size_t>(index)).path();
}

void DatasetReader::verify(const std::function<void(int64_t, int64_t)>& progress) {
  int64_t total = 0, done = 0;
  const int64_t item_bytes = impl_->manifest.tokenizer.vocab_size <= kMaxVocabU16 ? 2 : 4;
  for (const Split split : kSplits) {
    const SplitSummary sum = summary(split);
    total += sum.n_tokens * item_bytes + (sum.n_documents + sum.n_shards) * 8;
  }
  for (auto& shards : impl_->shards)
    for (ShardFile& shard : shards)
      impl_->opened(shard).verify([&](int64_t n_bytes) {
        done += n_bytes;
        if (progress) progress(done, total);
      });
  for (const auto& [name, file] : impl_->manifest.files)
    if (const std::string found = sha256_file(impl_->path + "/" + name); found != file.sha256)
      throw Error("{}/{}: SHA-256 is {}, the manifest says {}: the file is damaged", impl_->path,
                  name, found, file.sha256);
}

}  // namespace ceiling
