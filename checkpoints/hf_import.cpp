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

std::string first_names(const std::vector<std::string>& names) {
  constexpr size_t kMost = 8;
  if (names.size() <= kMost) return join(names, ", ");
  return fmt::format("{} and {} more", join({names.begin(), names.begin() + kMost}, ", "),
                     names.size() - kMost);
}

// Old LLaMA conversions carry the rotary frequencies, which are computed, not learnt.
bool is_computed(const std::string& hf_name) {
  constexpr std::string_view kSuffix = ".rotary_emb.inv_freq";
  return hf_name.size() > kSuffix.size() &&
         hf_name.compare(hf_name.size() - kSuffix.size(), kSuffix.size(), kSuffix) == 0;
}

// What a YAML file is checked for. config.json knows other names, so the message speaks of ours.
void check_ranges(ModelConfig& config) { parse_config(config, dump_config(config), "model"); }

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
        check_ranges(*model.config);
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

HfWeights::HfWeights(const std::string& folder, HfLayout layout)
    : folder_(folder), layout_(std::move(layout)) {
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
        "{}: no model.safetensors and no model.safetensors.index.json; other weight files are not "
        "read",
        folder);
  }
  check_names();
}

void HfWeights::add(const std::string& path) {
  files_.push_back(std::make_unique<SafetensorsFile>(path));
  for (const auto& entry : files_.back()->entries())
    if (!where_.emplace(entry.name, files_.back().get()).second)
      throw Error("{}: tensor '{}' is also in another file", path, entry.name);
}

void HfWeights::check_names() const {
  std::vector<std::string> missing, extra;
  std::set<std::string> wanted;
  for (const HfTensor& tensor : layout_.tensors) {
    wanted.insert(tensor.hf_name);
    if (!where_.count(tensor.hf_name)) missing.push_back(tensor.hf_name);
  }
  for (const auto& [name, file] : where_)
    if (!wanted.count(name) && !is_computed(name)) extra.push_back(name);
  if (missing.empty() && extra.empty()) return;
  std::string text =
      fmt::format("{}: the tensors are not those that config.json describes", folder_);
  if (!missing.empty()) text += "\n  missing: " + first_names(missing);
  if (!extra.empty()) text += "\n  left over: " + first_names(extra);
  throw Error("{}", text);
}

void HfWeights::check_shapes(const Shapes& parameters) const {
  std::map<std::string, std::vector<int64_t>> by_name(parameters.begin(), parameters.end());
  std::map<std::string, int64_t> rows_left;
  for (const auto& [name, shape] : parameters) rows_left[name] = shape.at(0);
  for (const HfTensor& tensor : layout_.tensors) {
    if (!by_name.count(tensor.name))
      throw Error("import: {} belongs to {}, which the model does not have", tensor.hf_name,
                  tensor.name);
    std::vector<int64_t> shape = by_name[tensor.name];
    if (tensor.end >= 0) shape[0] = tensor.end - tensor.begin;
    rows_left[tensor.name] -= shape[0];
    where_.at(tensor.hf_name)->require_shape(tensor.hf_name, shape);
  }
  for (const auto& [name, n] : rows_left)
    if (n != 0) throw Error("import: {} rows of {} have no place in the layout", n, name);
}

void HfWeights::load(const std::vector<NamedTensor>& into) const {
  Shapes shapes;
  std::map<std::string, at::Tensor> by_name;
  for (const NamedTensor& tensor : into) {
    shapes.emplace_back(tensor.name, tensor.value.sizes().vec());
    by_name[tensor.name] = tensor.value;
  }
  check_shapes(shapes);
  for (const HfTensor& tensor : layout_.tensors) {
    const at::Tensor& whole = by_name[tensor.name];
    const int64_t end = tensor.end < 0 ? whole.size(0) : tensor.end;
    at::Tensor part = whole.narrow(0, tensor.begin, end - tensor.begin);
    where_.at(tensor.hf_name)->read_into(tensor.hf_name, part);
    if (tensor.shift != 0) part.sub_(tensor.shift);
  }
}

}  // namespace ceiling
