// One finished checkpoint on disk, verified and open for reading. While it lives, retention (also
// of another process) does not remove it.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoints/folder_lock.h"
#include "checkpoints/manifest.h"
#include "checkpoints/safetensors.h"

namespace ceiling {

inline constexpr char kWeightsName[] = "weights.safetensors";
inline constexpr char kStateName[] = "state.json";
std::string optimizer_shard_name(int64_t rank, int64_t n_ranks);  // optimizer-00000-of-00001...
std::string checkpoint_name(int64_t step);                        // step-00001000
int64_t checkpoint_step(const std::string& name);                 // -1: not such a name

class Checkpoint {
 public:
  // Error names what is missing or damaged, and the file.
  explicit Checkpoint(const std::string& path, Verify how = Verify::kHashes);

  const std::string& path() const { return path_; }
  std::string name() const { return fs::path(path_).filename().string(); }
  const CheckpointManifest& manifest() const { return manifest_; }
  const nlohmann::json& state() const { return state_; }
  std::string weights_path() const { return path_ + "/" + kWeightsName; }

  // Every tensor of the model from the weights file, converted to the dtype and device of `into`.
  // Error unless names and shapes are exactly those of the file.
  void load_weights(const std::vector<NamedTensor>& into) const;
  // Elements [begin, begin + into.numel()) of the flat optimizer buffer `name` ("m", "v"), whatever
  // the number of ranks that wrote it. Error if it belongs to another parameter layout.
  void load_flat(const std::string& name, const std::string& layout_hash, at::Tensor into,
                 int64_t begin = 0) const;

 private:
  std::string path_;
  FolderLock lock_;
  CheckpointManifest manifest_;
  nlohmann::json state_;
};

}  // namespace ceiling
