// Architectures register themselves; everything else finds them by name.
// modules/architectures/<name>.cpp is the one place that knows an architecture: keys, blocks,
// initialisation, parameter groups, state, FLOPs and export layout.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/fields.h"

namespace ceiling {

class LanguageModel;

// One tensor of a Hugging Face checkpoint: the rows [begin, end) of one of our parameters (end -1:
// all rows), plus `shift` (-1 where a gain g is stored as g - 1).
struct HfTensor {
  std::string hf_name, name;
  int64_t begin = 0, end = -1;
  double shift = 0;
};

struct HfLayout {
  nlohmann::json
      config;  // config.json, less what the exporter knows itself (dtype, token ids, vocabulary)
  std::vector<HfTensor> tensors;
};

// The `model:` section of a run: base of every architecture's own config struct.
struct ModelConfig {
  virtual ~ModelConfig() = default;
  virtual void fields(Fields& f) = 0;
  // Rules across keys; Error texts start with the key: "model.n_heads: 3 does not divide
  // model.d_model 128".
  virtual void check() const {}
  virtual std::unique_ptr<LanguageModel> build() const = 0;
  // Hugging Face layout, and its reverse: false if config.json is of another architecture, Error if
  // of this one but with options it does not have.
  virtual HfLayout hf_layout() const = 0;
  virtual bool from_hf(const nlohmann::json& config) = 0;

  int64_t vocab_size = 0;  // of the tokenizer: set by the trainer, no key
  int64_t context = 0;     // data.context: set by the trainer, no key
};

struct Architecture {
  std::string name;     // model.architecture
  std::string summary;  // one line with the paper
  std::function<std::unique_ptr<ModelConfig>()> make_config;
  // Small models (YAML of the model section) that together cover the architecture's options: the
  // shared property tests run on each of them, so a new architecture joins them by registering.
  std::vector<std::string> tiny;
};

const Architecture& find_architecture(
    const std::string& name);                      // Error with "did you mean" and the list
const std::vector<Architecture>& architectures();  // by name
std::vector<std::string> architecture_names();

void register_architecture(Architecture architecture);

template <class Config>
struct RegisterArchitecture {
  RegisterArchitecture(std::string name, std::string summary, std::vector<std::string> tiny) {
    register_architecture({std::move(name), std::move(summary),
                           [] { return std::make_unique<Config>(); }, std::move(tiny)});
  }
};

}  // namespace ceiling
