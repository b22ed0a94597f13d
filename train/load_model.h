// A trained model ready for use: evaluation, generation, export.
#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "data/tokenizer.h"
#include "modules/lm.h"
#include "train/parameter_store.h"
#include "train/run_config.h"

namespace ceiling {

struct LoadedModel {
  std::string path;  // the checkpoint's folder
  ModelSection config;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<ParameterStore> store;  // weights only
  std::shared_ptr<const Tokenizer> tokenizer;
  nlohmann::json state;                                     // state.json
  bool bos() const { return state.at("model").at("bos"); }  // documents began with BOS in training
  int64_t context() const { return state.at("model").at("context"); }
};

// `path` is a run folder (its newest valid checkpoint is taken), or one checkpoint.
LoadedModel load_model(const std::string& path, at::Device device, at::ScalarType compute);

// What load_model needs to know of a model; goes into state.json under "model" and "tokenizer".
nlohmann::json model_json(ModelSection& config, bool bos);
nlohmann::json tokenizer_json(const TokenizerInfo& info);

}  // namespace ceiling
