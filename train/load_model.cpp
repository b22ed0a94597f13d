#include "train/load_model.h"

#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/files.h"
#include "checkpoints/store.h"

namespace ceiling {

nlohmann::json model_json(ModelSection& config, bool bos) {
  return {{"yaml", to_yaml(dump_config(config))},
          {"vocab_size", config.config->vocab_size},
          {"context", config.config->context},
          {"bos", bos}};
}

nlohmann::json tokenizer_json(const TokenizerInfo& info) {
  return {{"name", info.name},
          {"sha256", info.sha256},
          {"vocab_size", info.vocab_size},
          {"bos", info.bos},
          {"eos", info.eos}};
}

namespace {

Checkpoint open_checkpoint(const std::string& path) {
  if (!fs::exists(path)) throw Error("{}: does not exist; give a run folder or a checkpoint", path);
  if (fs::exists(path + "/manifest.json")) return CheckpointStore::open(path);
  if (fs::exists(path + "/config.json") && !fs::exists(path + "/checkpoints"))
    throw Error(
        "{}: is a Hugging Face folder; read it with `ceiling import {} --out RUN`, and give RUN",
        path, path);
  auto newest = CheckpointStore(path + "/checkpoints")
                    .latest_valid([](const std::string& name, const std::string& why) {
                      spdlog::warn("{}: skipped, {}", name, why);
                    });
  if (!newest)
    throw Error("{}: holds no valid checkpoint; give a run folder or a checkpoint (step-00000100)",
                path);
  return std::move(*newest);
}

ModelSection model_of(const Checkpoint& checkpoint) {
  const nlohmann::json& model = checkpoint.state().at("model");
  ModelSection section =
      read_model_section(parse_config_text(model.at("yaml"), checkpoint.path() + "/state.json"));
  section.config->vocab_size = model.at("vocab_size");
  section.config->context = model.at("context");
  return section;
}

// What a model computes, however its keys are written: the export's description has every size
// resolved. How random weights spread is no part of it.
nlohmann::json function_of(const ModelConfig& model) {
  const HfLayout layout = model.hf_layout();
  nlohmann::json function = layout.config;
  function.erase("initializer_range");
  for (const HfTensor& t : layout.tensors)
    function["tensors"].push_back({t.hf_name, t.name, t.begin, t.end});
  return function;
}

bool is_task(const std::string& tokenizer) { return tokenizer.starts_with(kTaskPrefix); }

}  // namespace

std::string LoadedModel::task() const {
  const std::string name = state.at("tokenizer").at("name");
  return is_task(name) ? name.substr(std::string(kTaskPrefix).size()) : "";
}

std::vector<uint32_t> LoadedModel::text_ids() const {
  if (tokenizer) return tokenizer->text_ids();
  const nlohmann::json& info = state.at("tokenizer");
  return ids_only_tokenizer({.name = info.at("name"),
                             .sha256 = info.at("sha256"),
                             .vocab_size = info.at("vocab_size"),
                             .bos = info.at("bos"),
                             .eos = info.at("eos")},
                            path)
      ->text_ids();
}

nlohmann::json load_initial_weights(const std::string& path, ModelSection& model,
                                    const TokenizerInfo& tokenizer, ParameterStore& store) {
  const Checkpoint checkpoint = open_checkpoint(path);
  ModelSection theirs = model_of(checkpoint);
  theirs.config->context = model.config->context;  // another length is another use, not a model
  const bool same = theirs.architecture == model.architecture &&
                    function_of(*theirs.config) == function_of(*model.config);
  if (!same)
    throw Error(
        "train.init_from: {} holds another model than this run is to train:\n{}Set the model "
        "section as it is there; keys that say the same in other words may stay",
        checkpoint.path(), changes_text(difference(theirs, model).matters));
  require_tokenizer(checkpoint.state(), tokenizer, "train.init_from: the dataset");
  store.load([&](const auto& named) { checkpoint.load_weights(named); });
  const FileRecord* file = checkpoint.manifest().find(kWeightsName);
  return {{"path", checkpoint.path()},
          {"step", checkpoint.state().at("step")},
          {"weights_sha256", file->sha256}};
}

void require_tokenizer(const nlohmann::json& state, const TokenizerInfo& tokenizer,
                       const std::string& data) {
  const nlohmann::json& ours = state.at("tokenizer");
  const std::string name = ours.at("name");
  if (tokenizer.sha256 == ours.at("sha256")) return;
  if (name.starts_with("hf:") && tokenizer.vocab_size <= ours.at("vocab_size")) {
    spdlog::warn(
        "{}: tokenizer is '{}'; the model came with one that ceiling does not run, so whether its "
        "ids mean the same cannot be checked",
        data, tokenizer.name);
    return;
  }
  if (is_task(name) || is_task(tokenizer.name))
    throw Error(
        "{}: has the tokens of '{}', the model was trained on those of '{}'; the ids of a "
        "synthetic "
        "task mean nothing in text or in another task",
        data, tokenizer.name, name);
  throw Error(
      "{}: tokenizer is '{}' (sha256 {}, {} ids), the model was trained with '{}' ({}, {} ids); "
      "prepare the text again with the model's",
      data, tokenizer.name, tokenizer.sha256.substr(0, 12), tokenizer.vocab_size, name,
      ours.at("sha256").get<std::string>().substr(0, 12), ours.at("vocab_size").get<int64_t>());
}

LoadedModel load_model(const std::string& path, at::Device device, at::ScalarType compute) {
  const Checkpoint checkpoint = open_checkpoint(path);
  LoadedModel loaded;
  loaded.path = checkpoint.path();
  loaded.state = checkpoint.state();
  loaded.config = model_of(checkpoint);
  loaded.model = loaded.config.config->build();
  loaded.store = std::make_unique<ParameterStore>(*loaded.model, device, compute, /*seed=*/1,
                                                  /*with_optimizer=*/false);
  loaded.store->load([&](const auto& named) { checkpoint.load_weights(named); });
  const nlohmann::json& tokenizer = loaded.state.at("tokenizer");
  const std::string name = tokenizer.at("name");
  const std::string model_file = checkpoint.path() + "/tokenizer.model";
  loaded.tokenizer = fs::exists(model_file) ? sentencepiece_tokenizer(read_file(model_file), name)
                     : name == "byte"       ? byte_tokenizer()
                                            : nullptr;
  return loaded;
}

}  // namespace ceiling
