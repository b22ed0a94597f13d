#include "checkpoints/hf.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "modules/lm.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

using nlohmann::json;

constexpr int64_t kVocab = 258;  // of the byte tokenizer

json tiny_config(const std::string& architecture, bool tied) {
  if (architecture == "retnet")
    return {{"model_type", "retnet"},
            {"hidden_size", 16},
            {"num_hidden_layers", 2},
            {"num_heads", 2},
            {"expand_v", 2.0},
            {"intermediate_size", 24},
            {"tie_word_embeddings", tied},
            {"vocab_size", kVocab}};
  if (architecture == "griffin")
    return {
        {"model_type", "recurrent_gemma"}, {"hidden_size", 16},           {"num_hidden_layers", 3},
        {"num_attention_heads", 2},        {"num_key_value_heads", 1},    {"lru_width", 24},
        {"intermediate_size", 48},         {"tie_word_embeddings", tied}, {"vocab_size", kVocab}};
  return {{"model_type", "llama"},        {"hidden_size", 16},    {"num_hidden_layers", 2},
          {"num_attention_heads", 4},     {"head_dim", 4},        {"num_key_value_heads", 2},
          {"intermediate_size", 24},      {"vocab_size", kVocab}, {"tie_word_embeddings", tied},
          {"max_position_embeddings", 64}};
}

// A model with its parameters by name.
struct Tiny {
  explicit Tiny(const std::string& architecture = "llama", bool tied = false, uint64_t seed = 1)
      : config(find_architecture(architecture).make_config()) {
    EXPECT_TRUE(config->from_hf(tiny_config(architecture, tied)));
    model = config->build();
    allocate_parameters(*model, at::kFloat, seed);
    for (Parameter* p : model->parameters()) weights.push_back({p->name, p->value.detach()});
  }
  HfExportSummary save(const std::string& out, HfExportOptions options = {}) const {
    return export_hf(weights, config->hf_layout(), byte_tokenizer()->info(), byte_tokenizer().get(),
                     options, out);
  }
  std::unique_ptr<ModelConfig> config;
  std::unique_ptr<LanguageModel> model;
  std::vector<NamedTensor> weights;
};

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "done";
}

class HfTest : public ::testing::Test {
 protected:
  json read(const std::string& name) { return json::parse(read_file(out_ + "/" + name)); }
  void change_config(const std::string& key, const json& value) {
    json config = read("config.json");
    config[key] = value;
    write_file_atomic(out_ + "/config.json", config.dump());
  }
  // Rewrites model.safetensors after `edit` has changed the list of its tensors.
  template <class Edit>
  void change_weights(const Edit& edit) {
    std::vector<NamedTensor> tensors;
    {
      const SafetensorsFile file(out_ + "/model.safetensors");
      for (const auto& entry : file.entries())
        tensors.push_back({entry.name, file.read(entry.name)});
    }
    edit(tensors);
    write_safetensors(out_ + "/model.safetensors", tensors);
  }
  std::string import_message() {
    return message_of([&] {
      const HfModel model = read_hf_model(out_);
      const HfWeights weights(out_, model.config->hf_layout());
      HfWeights::Shapes shapes;
      const auto built = model.config->build();
      for (const Parameter* p : built->parameters()) shapes.emplace_back(p->name, p->shape);
      weights.check_shapes(shapes);
    });
  }
  TempDir dir_;
  std::string out_ = dir_ / "hf";
};

TEST_F(HfTest, ImportGivesBackWhatWasExported) {
  for (const char* architecture : {"llama", "retnet", "griffin"}) {
    for (const bool tied : {false, true}) {
      const Tiny ours(architecture, tied, 1);
      Tiny theirs(architecture, tied, 2);
      ours.save(out_, {.replace = true});
      const HfModel model = read_hf_model(out_);
      EXPECT_EQ(model.architecture, architecture);
      EXPECT_EQ(model.config->hf_layout().config, ours.config->hf_layout().config);
      HfWeights(out_, model.config->hf_layout()).load(theirs.weights);
      for (size_t i = 0; i < ours.weights.size(); ++i)
        EXPECT_TRUE(at::equal(ours.weights[i].value, theirs.weights[i].value))
            << architecture << " " << ours.weights[i].name;
    }
  }
}

TEST_F(HfTest, TheDtypeOfTheConfigIsThatOfEveryTensor) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    Tiny().save(out_, {.dtype = dtype, .replace = true});
    const char* name = dtype == at::kFloat ? "float32" : "bfloat16";
    EXPECT_EQ(read("config.json").at("dtype"), name);
    EXPECT_EQ(read("config.json").at("torch_dtype"), name);
    const SafetensorsFile file(out_ + "/model.safetensors");
    for (const auto& entry : file.entries()) EXPECT_EQ(entry.dtype, dtype) << entry.name;
  }
  EXPECT_EQ(import_message(), "done");
}

TEST_F(HfTest, ATiedHeadIsStoredOnceAndAnUntiedOneTwice) {
  for (const bool tied : {true, false}) {
    Tiny("llama", tied).save(out_, {.replace = true});
    EXPECT_EQ(read("config.json").at("tie_word_embeddings"), tied);
    const SafetensorsFile file(out_ + "/model.safetensors");
    EXPECT_NE(file.find("model.embed_tokens.weight"), nullptr);
    EXPECT_EQ(file.find("lm_head.weight") == nullptr, tied);
    EXPECT_EQ(file.metadata().at("format"), "pt");
  }
}

TEST_F(HfTest, TokenIdsAgreeInAllFiles) {
  Tiny().save(out_);
  const TokenizerInfo info = byte_tokenizer()->info();
  EXPECT_EQ(read("config.json").at("vocab_size"), info.vocab_size);
  for (const char* file : {"config.json", "generation_config.json"}) {
    EXPECT_EQ(read(file).at("bos_token_id"), info.bos) << file;
    EXPECT_EQ(read(file).at("eos_token_id"), info.eos) << file;
  }
  const json vocab = read("tokenizer.json").at("model").at("vocab");
  EXPECT_EQ(vocab.size(), static_cast<size_t>(info.vocab_size));
  EXPECT_EQ(vocab.at(read("tokenizer_config.json").at("eos_token").get<std::string>()), info.eos);
  EXPECT_EQ(read_hf_tokenizer(out_, read("config.json")).info, info);
}

TEST_F(HfTest, PaddingRowsAreLeftOut) {
  Tiny padded;
  for (NamedTensor& weight : padded.weights)
    if (weight.value.size(0) == kVocab)
      weight.value = at::cat({weight.value, at::ones({6, weight.value.size(1)})});
  EXPECT_EQ(padded.save(out_).n_padding_rows, 6);
  Tiny back("llama", false, 2);
  HfWeights(out_, back.config->hf_layout()).load(back.weights);
  EXPECT_TRUE(at::equal(back.weights[0].value, padded.weights[0].value.narrow(0, 0, kVocab)));
}

TEST_F(HfTest, ShardsAndIndexHoldTheSameTensorsAsOneFile) {
  const Tiny ours;
  const HfExportSummary summary = ours.save(out_, {.max_shard_bytes = 9000});
  EXPECT_GT(summary.n_files, 3);
  EXPECT_FALSE(fs::exists(out_ + "/model.safetensors"));
  const json index = read("model.safetensors.index.json");
  EXPECT_EQ(index.at("weight_map").size(), static_cast<size_t>(summary.n_tensors));
  EXPECT_EQ(index.at("metadata").at("total_size"), summary.size_bytes);
  Tiny back("llama", false, 2);
  HfWeights(out_, back.config->hf_layout()).load(back.weights);
  for (size_t i = 0; i < back.weights.size(); ++i)
    EXPECT_TRUE(at::equal(ours.weights[i].value, back.weights[i].value));
  fs::remove(out_ + fmt::format("/model-00002-of-{:05}.safetensors", summary.n_files));
  EXPECT_NE(import_message().find("model-00002-of-"), std::string::npos);
}

TEST_F(HfTest, AnExistingFolderIsReplacedOnlyOnRequestAndOnlyIfItIsAnExport) {
  const Tiny model;
  fs::create_directories(out_);
  model.save(out_);  // empty: free to take
  write_file_atomic(out_ + "/notes.txt", "mine");
  EXPECT_EQ(message_of([&] { model.save(out_); }),
            out_ + ": exists and is not empty; choose another --out, or pass --replace");
  EXPECT_TRUE(fs::exists(out_ + "/notes.txt"));
  model.save(out_, {.replace = true});
  EXPECT_FALSE(fs::exists(out_ + "/notes.txt"));
  fs::remove(out_ + "/config.json");
  EXPECT_EQ(message_of([&] { model.save(out_, {.replace = true}); }),
            out_ + ": holds no config.json, so it is no earlier export; it is not replaced");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), fs::directory_iterator()), 1);
}

TEST_F(HfTest, TensorsThatDoNotFitAreNamed) {
  Tiny().save(out_);
  change_weights([](auto& tensors) {
    tensors[0].name = "model.embed_tokens.wieght";
    tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", at::zeros({2})});
  });
  EXPECT_EQ(import_message(), out_ +
                                  ": the tensors are not those that config.json describes\n"
                                  "  missing: model.embed_tokens.weight\n"
                                  "  left over: model.embed_tokens.wieght");
  change_weights([](auto& tensors) {
    for (auto& tensor : tensors) {
      if (tensor.name == "model.embed_tokens.wieght") tensor.name = "model.embed_tokens.weight";
      if (tensor.name == "model.layers.1.self_attn.k_proj.weight") tensor.value = at::zeros({8, 8});
    }
  });
  EXPECT_EQ(import_message(), out_ +
                                  "/model.safetensors: tensor "
                                  "'model.layers.1.self_attn.k_proj.weight' has shape [8,8], "
                                  "the model needs [8,16]");
}

TEST_F(HfTest, ConfigsOfOtherModelsAreRefusedWithTheirPath) {
  Tiny().save(out_);
  change_config("attention_bias", true);
  EXPECT_EQ(import_message(),
            out_ + "/config.json: attention_bias is true, only false is supported");
  change_config("attention_bias", false);
  for (const json& value : {json(0), json(-8), json(true), json(16.5), json("16"), json(1e15)}) {
    change_config("hidden_size", value);
    EXPECT_EQ(import_message(),
              out_ + "/config.json: hidden_size has an unexpected value " + value.dump());
  }
  change_config("hidden_size", 18);
  EXPECT_EQ(import_message().rfind(out_ + "/model.safetensors: tensor ", 0), 0u);
  change_config("model_type", "gpt2");
  EXPECT_EQ(import_message().rfind(out_ + "/config.json: model_type \"gpt2\" is none of ours (", 0),
            0u);
  write_file_atomic(out_ + "/config.json", "{");
  EXPECT_EQ(import_message(), out_ + "/config.json: not a JSON object");
  fs::remove(out_ + "/config.json");
  EXPECT_EQ(import_message(), out_ + ": no config.json; not a Hugging Face folder");
}

TEST_F(HfTest, AFolderWithoutSafetensorsIsRefused) {
  Tiny().save(out_);
  fs::rename(out_ + "/model.safetensors", out_ + "/pytorch_model.bin");
  EXPECT_EQ(import_message(), out_ +
                                  ": no model.safetensors and no model.safetensors.index.json; "
                                  "other weight files are not read");
}

TEST_F(HfTest, AnIndexCannotPointOutOfTheFolder) {
  Tiny().save(out_, {.max_shard_bytes = 9000});
  json index = read("model.safetensors.index.json");
  index["weight_map"]["model.norm.weight"] = "../secret.safetensors";
  write_file_atomic(out_ + "/model.safetensors.index.json", index.dump());
  EXPECT_EQ(import_message(), out_ +
                                  "/model.safetensors.index.json: "
                                  "weight_map.model.norm.weight is not a file name");
}

TEST_F(HfTest, AFailedExportLeavesNothing) {
  Tiny model;
  model.weights.pop_back();
  EXPECT_NE(message_of([&] { model.save(out_); }).find("which the model does not have"),
            std::string::npos);
  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

}  // namespace
}  // namespace ceiling
