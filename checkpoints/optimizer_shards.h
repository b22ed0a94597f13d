// The flat optimizer buffers of a run, cut into one file per rank. Any range can be read back,
// whatever the number of ranks.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/manifest.h"
#include "checkpoints/safetensors.h"

namespace ceiling {

// Which elements of flat buffers of length n_flat a rank's buffers hold, one after the other.
struct ShardRange {
  int64_t rank = 0, n_ranks = 1;
  int64_t n_flat = 0;
  std::vector<std::pair<int64_t, int64_t>> pieces;  // [begin, end), ascending
};

// Into `folder`, named by rank. `buffers`: 1-D, of equal length.
FileRecord write_optimizer_shard(const std::string& folder, const std::vector<NamedTensor>& buffers,
                                 const ShardRange& range, const std::string& layout_hash);

class OptimizerShards {
 public:
  // Error unless the shards are complete, without gaps, and of this layout.
  OptimizerShards(const std::string& folder, const CheckpointManifest& manifest,
                  const std::string& layout_hash);
  // Elements [begin, begin + into.numel()) of the buffer `name`.
  void read(const std::string& name, int64_t begin, at::Tensor into) const;

 private:
  struct Piece {
    const SafetensorsFile* file;
    int64_t begin, end;  // of the flat buffer
    int64_t offset;      // in the file's tensors
  };
  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Piece> pieces_;  // by begin
  int64_t n_flat_ = 0;
};

}  // namespace ceiling
