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
  auto newest = CheckpointStore(path + "/checkpoints")
                    .latest_valid([](const std::string& name, const std::string& why) {
                      spdlog::warn("{}: skipped, {}", name, why);
                    });
  if (!newest)
    throw Error("{}: holds no valid checkpoint; give a run folder or a checkpoint (step-00000100)",
                path);
  return std::move(*newest);
}

}  // namespace

LoadedModel load_model(const std::string& path, at::Device device, at::ScalarType compute) {
  const Checkpoint checkpoint = open_checkpoint(path);
  LoadedModel loaded;
  loaded.path = checkpoint.path();
  loaded.state = checkpoint.state();
  const nlohmann::json& model = loaded.state.at("model");
  loaded.config =
      read_model_section(parse_config_text(model.at("yaml"), checkpoint.path() + "/state.json"));
  loaded.config.config->vocab_size = model.at("vocab_size");
  loaded.config.config->context = model.at("context");
  loaded.model = loaded.config.config->build();
  loaded.store = std::make_unique<ParameterStore>(*loaded.model, device, compute, /*seed=*/1,
                                                  /*with_optimizer=*/false);
  checkpoint.load_weights(loaded.store->named_masters());
  loaded.store->sync_compute();
  const nlohmann::json& tokenizer = loaded.state.at("tokenizer");
  const std::string name = tokenizer.at("name");
  const std::string model_file = checkpoint.path() + "/tokenizer.model";
  loaded.tokenizer = fs::exists(model_file) ? sentencepiece_tokenizer(read_file(model_file), name)
                     : name == "byte"       ? byte_tokenizer()
                                            : nullptr;
  return loaded;
}

}  // namespace ceiling
