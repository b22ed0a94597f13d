#include "checkpoints/optimizer_shards.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/checkpoint.h"

namespace ceiling {

namespace {

int64_t metadata_number(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  const auto value = found == file.metadata().end() ? std::nullopt : parse_int(found->second);
  if (!value) throw Error("{}: the metadata has no number '{}'", file.path(), key);
  return *value;
}

}  // namespace

FileRecord write_optimizer_shard(const std::string& folder, const std::vector<NamedTensor>& buffers,
                                 const ShardRange& range, const std::string& layout_hash) {
  const int64_t length = buffers.empty() ? 0 : buffers.front().value.numel();
  return write_safetensors(folder + "/" + optimizer_shard_name(range.rank, range.n_ranks), buffers,
                           {{"rank", std::to_string(range.rank)},
                            {"n_ranks", std::to_string(range.n_ranks)},
                            {"begin", std::to_string(range.begin)},
                            {"end", std::to_string(range.begin + length)},
                            {"n_flat", std::to_string(range.n_flat)},
                            {"layout_hash", layout_hash}});
}

OptimizerShards::OptimizerShards(const std::string& folder, const CheckpointManifest& manifest,
                                 const std::string& layout_hash)
    : folder_(folder) {
  for (const FileRecord& record : manifest.files) {
    if (record.name.rfind("optimizer-", 0) != 0) continue;
    auto file = std::make_unique<SafetensorsFile>(folder + "/" + record.name);
    const auto layout = file->metadata().find("layout_hash");
    if (layout == file->metadata().end() || layout->second != layout_hash)
      throw Error(
          "{}: the optimizer state is of another parameter layout; the checkpoint was made by "
          "another model or program version",
          file->path());
    n_flat_ = metadata_number(*file, "n_flat");
    const int64_t begin = metadata_number(*file, "begin"), end = metadata_number(*file, "end");
    shards_.push_back({std::move(file), begin, end});
  }
  std::sort(shards_.begin(), shards_.end(),
            [](const Shard& a, const Shard& b) { return a.begin < b.begin; });
  int64_t covered = 0;
  for (const Shard& shard : shards_) {
    if (shard.begin != covered)
      throw Error("{}: begins at element {}, {} was expected; a shard is missing or doubled",
                  shard.file->path(), shard.begin, covered);
    covered = shard.end;
  }
  if (covered != n_flat_ || shards_.empty())
    throw Error("{}: the optimizer shards hold {} of {} elements", folder, covered, n_flat_);
}

void OptimizerShards::read(const std::string& name, int64_t begin, at::Tensor into) const {
  const int64_t end = begin + into.numel();
  if (begin < 0 || end > n_flat_)
    throw Error("{}: the optimizer state has {} elements, [{}, {}) of '{}' are needed", folder_,
                n_flat_, begin, end, name);
  for (const Shard& shard : shards_) {
    const int64_t low = std::max(begin, shard.begin), high = std::min(end, shard.end);
    if (low >= high) continue;
    into.narrow(0, low - begin, high - low)
        .copy_(shard.file->read_flat(name, low - shard.begin, high - shard.begin));
  }
}

}  // namespace ceiling
