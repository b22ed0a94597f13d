// Hugging Face folders: config.json, model.safetensors (or shards with an index), tokenizer and
// generation config. What goes where is the architecture's own table (HfLayout); here are the file
// formats.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/safetensors.h"
#include "data/tokenizer.h"
#include "modules/registry.h"

namespace ceiling {

struct HfExportOptions {
  at::ScalarType dtype = at::kFloat;  // or at::kBFloat16
  int64_t max_shard_bytes = int64_t{5} << 30;
  bool bos = true;       // the tokenizer puts BOS before a text, as the training documents had it
  int64_t context = 0;   // longest text the tokenizer accepts without a warning
  bool replace = false;  // an earlier export of that name goes when the new one is complete
};

struct HfExportSummary {
  int64_t n_tensors = 0, n_files = 0, size_bytes = 0;
  int64_t n_padding_rows = 0;  // of embedding and head, left out: the tokenizer has no such ids
};

// `weights`: all parameters of the model by our names. `tokenizer` may be null (a dataset of
// imported tokens): then no tokenizer files are written. The folder appears when it is complete.
// Error if it exists and is not empty, or if layout and weights do not fit.
HfExportSummary export_hf(const std::vector<NamedTensor>& weights, const HfLayout& layout,
                          const TokenizerInfo& tokenizer_info, const Tokenizer* tokenizer,
                          const HfExportOptions& options, const std::string& out);

struct HfModel {
  std::string architecture;  // name in the registry
  std::unique_ptr<ModelConfig> config;
  nlohmann::json json;  // config.json
};

// Reads config.json. Error if no architecture of ours is of that type.
HfModel read_hf_model(const std::string& folder);

struct HfTokenizer {
  // Ids of config.json and a name that says where they come from, where the tokenizer is not one
  // that ceiling can run.
  TokenizerInfo info;
  std::string model_file;  // bytes of a SentencePiece model; empty where there is none
  bool bos = true;         // a text begins with BOS
};

// Reads tokenizer.model, or finds that an export of ours used bytes. Error if the model file is not
// one that ceiling runs without loss; ids_only: it is not looked at.
HfTokenizer read_hf_tokenizer(const std::string& folder, const nlohmann::json& config,
                              bool ids_only = false);

// The tensors of a folder, one file or shards with an index, as `layout` wants them.
class HfWeights {
 public:
  using Shapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;  // by our names

  // Error that names every tensor missing or left over. Reads headers only.
  HfWeights(const std::string& folder, HfLayout layout);
  // Error at the first tensor of another shape: to be called before memory is taken.
  void check_shapes(const Shapes& parameters) const;
  // Fills all parameters of the model, converted to their dtype. Same checks.
  void load(const std::vector<NamedTensor>& into) const;

 private:
  void add(const std::string& path);
  void check_names() const;
  std::string folder_;
  HfLayout layout_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> where_;  // by their name
};

}  // namespace ceiling
