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

// The elements that a file holds, as its metadata says: "pieces", or "begin" and "end" in files of
// before there were several.
std::vector<std::pair<int64_t, int64_t>> pieces_of(const SafetensorsFile& file) {
  const auto found = file.metadata().find("pieces");
  if (found == file.metadata().end())
    return {{metadata_number(file, "begin"), metadata_number(file, "end")}};
  std::vector<std::pair<int64_t, int64_t>> pieces;
  for (const std::string& text : split(found->second, ',')) {
    if (text.empty()) continue;  // a rank that owns nothing
    const std::vector<std::string> ends = split(text, '-');
    const auto begin = parse_int(ends[0]), end = parse_int(ends.size() == 2 ? ends[1] : "");
    if (!begin || !end || *begin > *end)
      throw Error("{}: the metadata's pieces '{}' are not ranges", file.path(), found->second);
    pieces.emplace_back(*begin, *end);
  }
  return pieces;
}

}  // namespace

FileRecord write_optimizer_shard(const std::string& folder, const std::vector<NamedTensor>& buffers,
                                 const ShardRange& range, const std::string& layout_hash) {
  std::string pieces;
  for (const auto& [begin, end] : range.pieces)
    pieces += fmt::format("{}{}-{}", pieces.empty() ? "" : ",", begin, end);
  return write_safetensors(folder + "/" + optimizer_shard_name(range.rank, range.n_ranks), buffers,
                           {{"rank", std::to_string(range.rank)},
                            {"n_ranks", std::to_string(range.n_ranks)},
                            {"pieces", pieces},
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
    int64_t offset = 0;
    for (const auto& [begin, end] : pieces_of(*file)) {
      pieces_.push_back({file.get(), begin, end, offset});
      offset += end - begin;
    }
    files_.push_back(std::move(file));
  }
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  int64_t covered = 0;
  for (const Piece& piece : pieces_) {
    if (piece.begin != covered)
      throw Error("{}: begins at element {}, {} was expected; a shard is missing or doubled",
                  piece.file->path(), piece.begin, covered);
    covered = piece.end;
  }
  if (covered != n_flat_ || pieces_.empty())
    throw Error("{}: the optimizer shards hold {} of {} elements", folder, covered, n_flat_);
}

void OptimizerShards::read(const std::string& name, int64_t begin, at::Tensor into) const {
  const int64_t end = begin + into.numel();
  if (begin < 0 || end > n_flat_)
    throw Error("{}: the optimizer state has {} elements, [{}, {}) of '{}' are needed", folder_,
                n_flat_, begin, end, name);
  for (const Piece& piece : pieces_) {
    const int64_t low = std::max(begin, piece.begin), high = std::min(end, piece.end);
    if (low >= high) continue;
    const int64_t shift = piece.offset - piece.begin;
    into.narrow(0, low - begin, high - low)
        .copy_(piece.file->read_flat(name, low + shift, high + shift));
  }
}

}  // namespace ceiling
