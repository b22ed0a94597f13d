#include "checkpoints/checkpoint.h"

#include <charconv>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/optimizer_shards.h"

namespace ceiling {

namespace {

constexpr char kStepPrefix[] = "step-";

std::string without_slash(const std::string& path) {
  std::string normal = fs::path(path).lexically_normal().string();
  while (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

std::string first_names(const std::vector<std::string>& names) {
  constexpr size_t kMost = 4;
  std::vector<std::string> shown(names.begin(), names.begin() + std::min(kMost, names.size()));
  const std::string rest =
      names.size() > kMost ? fmt::format(" and {} more", names.size() - kMost) : "";
  return join(shown, ", ") + rest;
}

}  // namespace

std::string optimizer_shard_name(int64_t rank, int64_t n_ranks) {
  return fmt::format("optimizer-{:05}-of-{:05}.safetensors", rank, n_ranks);
}

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", kStepPrefix, step); }

int64_t checkpoint_step(const std::string& name) {
  if (name.rfind(kStepPrefix, 0) != 0) return -1;
  int64_t step = -1;
  const char* begin = name.data() + std::size(kStepPrefix) - 1;
  std::from_chars(begin, name.data() + name.size(), step);
  return step >= 0 && checkpoint_name(step) == name ? step : -1;
}

Checkpoint::Checkpoint(const std::string& path, Verify how)
    : path_(without_slash(path)),
      lock_(FolderLock::shared(path_)),
      manifest_(read_manifest(path_)) {
  const int64_t named_step = checkpoint_step(name());
  if (named_step >= 0 && named_step != manifest_.step)
    throw Error("{}: holds step {}; the folder was renamed", path_, manifest_.step);
  for (const char* needed : {kWeightsName, kStateName})
    if (!manifest_.find(needed)) throw Error("{}: no {} in the manifest", path_, needed);
  verify_files(path_, manifest_, how);
  const std::string state_path = path_ + "/" + kStateName;
  if (how == Verify::kSizes) verify_file(path_, *manifest_.find(kStateName), Verify::kHashes);
  state_ = nlohmann::json::parse(read_file(state_path), nullptr, /*allow_exceptions=*/false);
  if (!state_.is_object()) throw Error("{}: not a JSON object", state_path);
}

void Checkpoint::load_weights(const std::vector<NamedTensor>& into) const {
  const SafetensorsFile file(weights_path());
  std::vector<std::string> missing, unknown;
  std::set<std::string> wanted;
  for (const NamedTensor& tensor : into) {
    wanted.insert(tensor.name);
    if (!file.find(tensor.name)) missing.push_back(tensor.name);
  }
  for (const auto& entry : file.entries())
    if (!wanted.count(entry.name)) unknown.push_back(entry.name);
  if (!missing.empty())
    throw Error("{}: these are weights of another model; missing: {}", file.path(),
                first_names(missing));
  if (!unknown.empty())
    throw Error("{}: these are weights of another model; it does not have: {}", file.path(),
                first_names(unknown));
  for (const NamedTensor& tensor : into) file.read_into(tensor.name, tensor.value);
}

void Checkpoint::load_flat(const std::string& name, const std::string& layout_hash, at::Tensor into,
                           int64_t begin) const {
  OptimizerShards(path_, manifest_, layout_hash).read(name, begin, into);
}

}  // namespace ceiling
