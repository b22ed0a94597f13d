#include <set>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/hf.h"

namespace ceiling {

namespace {

using nlohmann::json;

json read_json(const std::string& path) {
  const json content = json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (!content.is_object()) throw Error("{}: not a JSON object", path);
  return content;
}

std::set<std::string> shard_names(const json& index, const std::string& path) {
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) throw Error("{}: no weight_map", path);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos)
      throw Error("{}: weight_map.{} is not a file name", path, tensor);
    names.insert(file.get<std::string>());
  }
  return names;
}

// All tensors of a folder, whatever the files they lie in.
class HfWeights {
 public:
  explicit HfWeights(const std::string& folder) : folder_(folder) {
    const std::string single = folder + "/model.safetensors", index = single + ".index.json";
    if (fs::exists(single)) {
      add(single);
    } else if (fs::exists(index)) {
      const json content = read_json(index);
      for (const std::string& name : shard_names(content, index)) add(folder + "/" + name);
      for (const auto& [tensor, file] : content.at("weight_map").items())
        if (!where_.count(tensor))
          throw Error("{}: tensor '{}' is not in {}", index, tensor, file.get<std::string>());
    } else {
      throw Error(
          "{}: no model.safetensors and no model.safetensors.index.json; other weight files "
          "are not read",
          folder);
    }
  }

  const std::string& folder() const { return folder_; }
  const std::map<std::string, const SafetensorsFile*>& where() const { return where_; }

 private:
  void add(const std::string& path) {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    for (const auto& entry : files_.back()->entries())
      if (!where_.emplace(entry.name, files_.back().get()).second)
        throw Error("{}: tensor '{}' is also in another file", path, entry.name);
  }
  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> where_;
};

// Old LLaMA conversions carry the rotary frequencies, which are computed, not learnt.
bool is_computed(const std::string& hf_name) {
  constexpr std::string_view kSuffix = ".rotary_emb.inv_freq";
  return hf_name.size() > kSuffix.size() &&
         hf_name.compare(hf_name.size() - kSuffix.size(), kSuffix.size(), kSuffix) == 0;
}

void check_names(const HfWeights& weights, const HfLayout& layout) {
  std::vector<std::string> missing, extra;
  std::set<std::string> wanted;
  for (const HfTensor& tensor : layout.tensors) {
    wanted.insert(tensor.hf_name);
    if (!weights.where().count(tensor.hf_name)) missing.push_back(tensor.hf_name);
  }
  for (const auto& [name, file] : weights.where())
    if (!wanted.count(name) && !is_computed(name)) extra.push_back(name);
  if (missing.empty() && extra.empty()) return;
  std::string text =
      fmt::format("{}: the tensors are not those that config.json describes", weights.folder());
  if (!missing.empty()) text += "\n  missing: " + join(missing, ", ");
  if (!extra.empty()) text += "\n  left over: " + join(extra, ", ");
  throw Error("{}", text);
}

}  // namespace

HfModel read_hf_model(const std::string& folder) {
  const std::string path = folder + "/config.json";
  if (!fs::exists(path)) throw Error("{}: no config.json; not a Hugging Face folder", folder);
  const json content = read_json(path);
  HfModel model;
  try {
    for (const Architecture& architecture : architectures()) {
      model.config = architecture.make_config();
      model.architecture = architecture.name;
      if (model.config->from_hf(content)) {
        model.config->check();
        model.json = content;
        return model;
      }
    }
  } catch (const Error& e) {
    const std::string what = e.what();  // "config.json: ..." from the architecture
    if (what.rfind("config.json: ", 0) == 0) throw Error("{}/{}", folder, what);
    throw;
  }
  throw Error("{}: model_type {} is none of ours ({})", path,
              content.value("model_type", json()).dump(), join(architecture_names(), ", "));
}

void load_hf_weights(const std::string& folder, const HfLayout& layout,
                     const std::vector<NamedTensor>& into) {
  const HfWeights weights(folder);
  check_names(weights, layout);
  std::map<std::string, at::Tensor> by_name;
  std::map<std::string, int64_t> rows_left;
  for (const NamedTensor& tensor : into) {
    by_name[tensor.name] = tensor.value;
    rows_left[tensor.name] = tensor.value.size(0);
  }
  for (const HfTensor& tensor : layout.tensors) {
    if (!by_name.count(tensor.name))
      throw Error("import: {} belongs to {}, which the model does not have", tensor.hf_name,
                  tensor.name);
    const at::Tensor& whole = by_name[tensor.name];
    const int64_t end = tensor.end < 0 ? whole.size(0) : tensor.end;
    weights.where()
        .at(tensor.hf_name)
        ->read_into(tensor.hf_name, whole.narrow(0, tensor.begin, end - tensor.begin));
    rows_left[tensor.name] -= end - tensor.begin;
  }
  for (const auto& [name, n] : rows_left)
    if (n != 0) throw Error("import: {} rows of {} have no place in the layout", n, name);
}

}  // namespace ceiling
