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
  std::vector<uint32_t> text_ids() const;  // as Tokenizer::text_ids, without a tokenizer too
  std::string task() const;  // the synthetic task it was trained on (data.task), or ""
};

// `path` is a run folder (its newest valid checkpoint is taken), or one checkpoint.
LoadedModel load_model(const std::string& path, at::Device device, at::ScalarType compute);

// What training begins with in place of random weights (train.init_from): the masters of `store`,
// read from there. `model` and `tokenizer` are those of the run to come. Error with the keys that
// differ, unless architecture and tokenizer are the same. Returns what state.json keeps of it.
nlohmann::json load_initial_weights(const std::string& path, ModelSection& model,
                                    const TokenizerInfo& tokenizer, ParameterStore& store);

// Error unless the tokens at `data` mean to the model of `state` what they meant in its training.
// The tokens of a synthetic task mean something in that task alone.
// The ids of an imported model whose tokenizer ceiling does not run are taken on trust.
void require_tokenizer(const nlohmann::json& state, const TokenizerInfo& tokenizer,
                       const std::string& data);

// What load_model needs to know of a model; goes into state.json under "model" and "tokenizer".
nlohmann::json model_json(ModelSection& config, bool bos);
nlohmann::json tokenizer_json(const TokenizerInfo& info);

}  // namespace ceiling
