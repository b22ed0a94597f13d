#include <set>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/hf.h"
#include "checkpoints/hf_tokenizer.h"

namespace ceiling {

namespace {

using nlohmann::json;

// The parameters whose rows are token ids, in every architecture (modules/lm.h).
bool is_vocabulary(const std::string& name) {
  return name == "embedding.weight" || name == "head.weight";
}

const char* torch_name(at::ScalarType dtype) {
  if (dtype == at::kFloat) return "float32";
  if (dtype == at::kBFloat16) return "bfloat16";
  throw Error("export: dtype {} is not one of fp32, bf16", c10::toString(dtype));
}

json token_id(int64_t id) { return id < 0 ? json() : json(id); }

void write_json(const std::string& path, const json& content) {
  write_hashed(path, content.dump(2) + "\n");
}

// The tensors as they go into the files; rows beyond the vocabulary are left out.
std::vector<TensorSource> tensors_of(const std::vector<NamedTensor>& weights,
                                     const HfLayout& layout, int64_t vocab_size,
                                     at::ScalarType dtype, HfExportSummary& summary) {
  std::map<std::string, at::Tensor> by_name;
  std::map<std::string, int64_t> rows_left;
  for (const NamedTensor& weight : weights) {
    by_name[weight.name] = weight.value;
    rows_left[weight.name] = weight.value.size(0);
  }
  std::vector<TensorSource> tensors;
  for (const HfTensor& tensor : layout.tensors) {
    if (!by_name.count(tensor.name))
      throw Error("export: {} is made of {}, which the model does not have", tensor.hf_name,
                  tensor.name);
    const at::Tensor& whole = by_name[tensor.name];
    int64_t end = tensor.end < 0 ? whole.size(0) : tensor.end;
    if (end > whole.size(0))
      throw Error("export: {} is made of rows [{}, {}) of {}, which has {}", tensor.hf_name,
                  tensor.begin, end, tensor.name, whole.size(0));
    rows_left[tensor.name] -= end - tensor.begin;
    if (is_vocabulary(tensor.name) && end > vocab_size) {
      summary.n_padding_rows = end - vocab_size;
      end = vocab_size;
    }
    const at::Tensor part = whole.narrow(0, tensor.begin, end - tensor.begin);
    const double shift = tensor.shift;
    tensors.push_back({tensor.hf_name, dtype, part.sizes().vec(),
                       [part, shift] { return shift == 0 ? part : part.add(shift); }});
  }
  for (const auto& [name, n] : rows_left)
    if (n != 0) throw Error("export: {} rows of {} have no place in the layout", n, name);
  return tensors;
}

int64_t bytes_of(const TensorSource& tensor) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(tensor.dtype));
  for (const int64_t size : tensor.shape) bytes *= size;
  return bytes;
}

std::vector<std::vector<TensorSource>> cut_into_shards(std::vector<TensorSource> tensors,
                                                       int64_t max_shard_bytes) {
  std::vector<std::vector<TensorSource>> shards(1);
  int64_t filled = 0;
  for (TensorSource& tensor : tensors) {
    const int64_t bytes = bytes_of(tensor);
    if (filled > 0 && filled + bytes > max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

void write_weights(const std::string& folder, std::vector<TensorSource> tensors,
                   int64_t max_shard_bytes, HfExportSummary& summary) {
  const SafetensorsMetadata metadata = {{"format", "pt"}};  // transformers insists on it
  const auto shards = cut_into_shards(std::move(tensors), max_shard_bytes);
  json weight_map = json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(folder + "/" + name, shards[i], metadata);
    for (const TensorSource& tensor : shards[i]) {
      weight_map[tensor.name] = name;
      summary.size_bytes += bytes_of(tensor);
      ++summary.n_tensors;
    }
  }
  summary.n_files = static_cast<int64_t>(shards.size());
  if (shards.size() > 1)
    write_json(folder + "/model.safetensors.index.json",
               {{"metadata", {{"total_size", summary.size_bytes}}}, {"weight_map", weight_map}});
}

void require_free_place(const std::string& out, bool replace) {
  if (!fs::exists(out)) return;
  if (!fs::is_directory(out)) throw Error("{}: exists and is not a folder", out);
  if (fs::is_empty(out)) return;
  if (!replace)
    throw Error("{}: exists and is not empty; choose another --out, or pass --replace", out);
  if (!fs::exists(out + "/config.json"))
    throw Error("{}: holds no config.json, so it is no earlier export; it is not replaced", out);
}

}  // namespace

HfExportSummary export_hf(const std::vector<NamedTensor>& weights, const HfLayout& layout,
                          const TokenizerInfo& tokenizer_info, const Tokenizer* tokenizer,
                          const HfExportOptions& options, const std::string& out) {
  const std::string dtype = torch_name(options.dtype);
  require_free_place(out, options.replace);
  HfExportSummary summary;
  std::vector<TensorSource> tensors =
      tensors_of(weights, layout, tokenizer_info.vocab_size, options.dtype, summary);

  PendingFolder pending(out);
  write_weights(pending.path(), std::move(tensors), options.max_shard_bytes, summary);
  const json bos = token_id(tokenizer_info.bos), eos = token_id(tokenizer_info.eos);
  json config = layout.config;
  config["vocab_size"] = tokenizer_info.vocab_size;
  config["bos_token_id"] = bos;
  config["eos_token_id"] = eos;
  config["dtype"] = dtype;
  config["torch_dtype"] = dtype;  // the name before transformers 4.56
  write_json(pending.path() + "/config.json", config);
  write_json(pending.path() + "/generation_config.json",
             {{"bos_token_id", bos}, {"eos_token_id", eos}});
  if (tokenizer)
    write_hf_tokenizer(pending.path(), *tokenizer,
                       {.bos = options.bos, .context = options.context});
  pending.commit(/*replace=*/true);
  return summary;
}

}  // namespace ceiling
