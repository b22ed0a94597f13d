// Logits, loss, every gradient, decode logits and final states against the architectures' own
// authors' code: see the README beside each fixture for what ran, and with which options. The model
// under test runs in float64; fixtures are stored in float32, which bounds the agreement.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <map>

#include "base/error.h"
#include "base/files.h"
#include "checkpoints/safetensors.h"
#include "modules/lm.h"
#include "modules/registry.h"
#include "tests/support/expect_close.h"
#include "tests/support/model.h"
#include "tests/support/source_dir.h"

namespace ceiling {
namespace {

struct Golden {
  std::string folder;
  std::unique_ptr<ModelConfig> config;
  HfLayout layout;
  std::unique_ptr<LanguageModel> model;
};

std::string golden_path(const std::string& name) { return source_dir() + "/tests/golden/" + name; }

// The registered architecture that recognises the fixture's config.json, with `override_yaml` keys
// changed.
Golden load_golden(const std::string& name, at::ScalarType dtype,
                   const std::string& override_yaml = "{}") {
  Golden golden;
  golden.folder = golden_path(name);
  const auto json = nlohmann::json::parse(read_file(golden.folder + "/config.json"));
  for (const Architecture& architecture : architectures()) {
    auto config = architecture.make_config();
    if (config->from_hf(json)) golden.config = std::move(config);
  }
  EXPECT_TRUE(golden.config) << name << ": no architecture recognises config.json";
  parse_config(*golden.config, parse_config_value(override_yaml, "test"), "model");
  golden.config->check();
  golden.layout = golden.config->hf_layout();
  golden.model = golden.config->build();
  allocate_parameters(*golden.model, dtype, 1);
  SafetensorsFile weights(golden.folder + "/weights.safetensors");
  std::map<std::string, Parameter*> by_name;
  for (Parameter* parameter : golden.model->parameters()) by_name[parameter->name] = parameter;
  at::NoGradGuard no_grad;
  for (const HfTensor& tensor : golden.layout.tensors) {
    at::Tensor& value = by_name.at(tensor.name)->value;
    const int64_t end = tensor.end < 0 ? value.size(0) : tensor.end;
    value.narrow(0, tensor.begin, end - tensor.begin)
        .copy_(weights.read(tensor.hf_name).to(dtype) - tensor.shift);
  }
  return golden;
}

// Largest difference, relative to the largest magnitude of `want`.
double relative_error(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor g = got.to(at::kDouble), w = want.to(at::kDouble);
  EXPECT_EQ(g.sizes(), w.sizes());
  return ((g - w).abs().max() / w.abs().max().clamp_min(1e-30)).item<double>();
}

// fp32 storage: half a unit in the last place is 6e-8, and small entries beside large ones share
// that bound.
constexpr double kStored = 1e-6;

class GoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, Float64LogitsLossAndHiddenStatesAreTheAuthors) {
  const Golden golden = load_golden(GetParam(), at::kDouble);
  SafetensorsFile io(golden.folder + "/io.safetensors");
  std::vector<at::Tensor> trace;
  golden.model->trace = &trace;
  const at::Tensor tokens = io.read("input_ids").to(at::kInt);
  const at::Tensor hidden = golden.model->hidden(tokens, Segments{}, nullptr);
  EXPECT_LT(relative_error(golden.model->logits(hidden), io.read("logits")), kStored);
  for (size_t i = 0; i < trace.size(); ++i) {
    const std::string name = "hidden." + std::to_string(i);
    if (!io.find(name)) continue;  // not every fixture has them
    EXPECT_LT(relative_error(trace[i], io.read(name)), kStored) << "layer " << i;
  }
  const at::Tensor targets = next_tokens(tokens);
  const double n_targets = static_cast<double>(targets.ge(0).sum().item<int64_t>());
  const auto loss = golden.model->loss(hidden, targets, {.scale = 1 / n_targets}).loss;
  EXPECT_NEAR(loss.item<double>(), io.read("loss").item<double>(), 1e-6);
}

// Of the mean loss over `targets`, against `io`.
void expect_gradients(const Golden& golden, const SafetensorsFile& io, const Segments& segments,
                      const at::Tensor& targets) {
  const at::Tensor tokens = io.read("input_ids").to(at::kInt);
  const double n_targets = static_cast<double>(targets.ge(0).sum().item<int64_t>());
  const auto loss =
      golden.model
          ->loss(golden.model->hidden(tokens, segments, nullptr), targets, {.scale = 1 / n_targets})
          .loss;
  EXPECT_NEAR(loss.item<double>(), io.read("loss").item<double>(), 1e-6);
  torch::autograd::backward({loss}, {});
  std::map<std::string, Parameter*> by_name;
  for (Parameter* parameter : golden.model->parameters()) by_name[parameter->name] = parameter;
  int64_t covered = 0, total = 0;
  for (const HfTensor& tensor : golden.layout.tensors) {
    const at::Tensor& grad = by_name.at(tensor.name)->grad;
    const int64_t end = tensor.end < 0 ? grad.size(0) : tensor.end;
    const at::Tensor part = grad.narrow(0, tensor.begin, end - tensor.begin);
    EXPECT_LT(relative_error(part, io.read("grad." + tensor.hf_name)), kStored) << tensor.hf_name;
    covered += part.numel();
  }
  for (const auto& [name, parameter] : by_name) total += parameter->numel();
  EXPECT_EQ(covered, total) << "some parameter has no golden gradient";
}

TEST_P(GoldenTest, Float64GradientOfEveryParameterIsTheAuthors) {
  const Golden golden = load_golden(GetParam(), at::kDouble);
  const SafetensorsFile io(golden.folder + "/io.safetensors");
  expect_gradients(golden, io, {}, next_tokens(io.read("input_ids").to(at::kInt)));
}

// Several documents in a row, where the authors' code packs them.
class PackedGoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PackedGoldenTest, Float64LogitsLossAndGradientsAreTheAuthors) {
  const Golden golden = load_golden(GetParam(), at::kDouble);
  const SafetensorsFile io(golden.folder + "/io_packed.safetensors");
  const at::Tensor tokens = io.read("input_ids").to(at::kInt);
  const Segments segments = make_segments(
      (io.read("segment_pos").eq(0).to(at::kInt).cumsum(1) - 1).to(at::kInt).contiguous());
  const at::Tensor logits = golden.model->logits(golden.model->hidden(tokens, segments, nullptr));
  EXPECT_LT(relative_error(logits, io.read("logits")), kStored);
  at::Tensor targets = next_tokens(tokens);
  at::Tensor within = targets.narrow(1, 0, targets.size(1) - 1);
  within.masked_fill_(io.read("target_mask").eq(0), -1);
  expect_gradients(golden, io, segments, targets);
}

TEST_P(GoldenTest, Float64LongSequenceCrossesChunkEdges) {
  const Golden golden = load_golden(GetParam(), at::kDouble);
  SafetensorsFile io(golden.folder + "/io_long.safetensors");
  const at::Tensor tokens = io.read("input_ids").to(at::kInt);
  const at::Tensor logits = golden.model->logits(golden.model->hidden(tokens, Segments{}, nullptr));
  EXPECT_LT(relative_error(logits.slice(1, 0, std::nullopt, 7), io.read("logits")), kStored);
}

TEST_P(GoldenTest, Float32LogitsAgreeTo1e4) {
  const Golden golden = load_golden(GetParam(), at::kFloat);
  for (const char* file : {"/io.safetensors", "/io_long.safetensors"}) {
    SafetensorsFile io(golden.folder + file);
    const at::Tensor logits = golden.model->logits(
        golden.model->hidden(io.read("input_ids").to(at::kInt), Segments{}, nullptr));
    const at::Tensor want = io.read("logits");
    const at::Tensor got =
        want.size(1) == logits.size(1) ? logits : logits.slice(1, 0, std::nullopt, 7);
    EXPECT_LT((got - want).abs().max().item<double>(), 1e-4) << file;
  }
}

TEST_P(GoldenTest, TokenByTokenDecodingGivesTheAuthorsLogitsAndStates) {
  const Golden golden = load_golden(GetParam(), at::kDouble);
  SafetensorsFile io(golden.folder + "/io.safetensors");
  const at::Tensor tokens = io.read("input_ids").to(at::kInt);
  at::NoGradGuard no_grad;
  ModelState state;
  std::vector<at::Tensor> logits;
  for (int64_t t = 0; t < tokens.size(1); ++t)
    logits.push_back(
        golden.model->logits(golden.model->hidden(tokens.narrow(1, t, 1), Segments{}, &state)));
  EXPECT_LT(relative_error(at::cat(logits, 1), io.read("decode_logits")), kStored);
  for (size_t layer = 0; layer < state.layers.size(); ++layer) {
    const auto names = golden.model->mixer(static_cast<int64_t>(layer)).state_names();
    ASSERT_EQ(names.size(), state.layers[layer].tensors.size());
    for (size_t i = 0; i < names.size(); ++i) {
      at::Tensor want = io.read(fmt::format("state.{}.{}", layer, names[i]));
      at::Tensor got = state.layers[layer].tensors[i];
      if (names[i] == "key" || names[i] == "value")  // a window keeps the latest
        got =
            got.narrow(1, state.layers[layer].length - want.size(2), want.size(2)).transpose(1, 2);
      if (names[i] == "recurrent")
        got = got * std::sqrt(static_cast<double>(got.size(2)));  // fla scales q, we scale k
      if (names[i] == "conv1d_state") got = got.transpose(1, 2);
      if (names[i] == "prev_key_value") got = got.transpose(2, 3);
      if (names[i] == "scale") got = got[0];
      if (names[i] == "ssm_state") got = got.transpose(2, 3);
      if (names[i] == "conv_state") {
        got = got.transpose(1, 2);
        want = want.narrow(2, 1, got.size(2));  // the authors also keep the tap that drops out next
      }
      EXPECT_LT(relative_error(got, want), kStored) << names[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Authors, GoldenTest,
                         ::testing::Values("llama", "llama_tied", "retnet", "retnet_torchscale",
                                           "griffin", "griffin_deepmind", "hawk", "mamba2",
                                           "mamba2_groups"),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Authors, PackedGoldenTest,
                         ::testing::Values("griffin_deepmind", "hawk", "mamba2"),
                         [](const auto& info) { return info.param; });

// The three forms of the fla dialect are one function; torchscale's own forms differ from each
// other by the epsilon inside its head norm, so each is compared with its own logits (chunk:
// stored; recurrent: decoding above).
TEST(RetNetGoldenTest, EveryFormGivesTheAuthorsLogits) {
  for (const char* form : {"{form: parallel}", "{form: recurrent}", "{form: chunk, chunk: 1}",
                           "{form: chunk, chunk: 7}", "{form: chunk, chunk: 64}"}) {
    const Golden golden = load_golden("retnet", at::kDouble, form);
    SafetensorsFile io(golden.folder + "/io.safetensors");
    const at::Tensor logits = golden.model->logits(
        golden.model->hidden(io.read("input_ids").to(at::kInt), Segments{}, nullptr));
    EXPECT_LT(relative_error(logits, io.read("logits")), kStored) << form;
  }
}

TEST(RetNetGoldenTest, TorchscaleChunkwiseFormGivesItsOwnLogits) {
  const Golden golden = load_golden("retnet_torchscale", at::kDouble, "{form: chunk, chunk: 32}");
  SafetensorsFile io(golden.folder + "/io.safetensors");
  const at::Tensor logits = golden.model->logits(
      golden.model->hidden(io.read("input_ids").to(at::kInt), Segments{}, nullptr));
  EXPECT_LT(relative_error(logits, io.read("chunk_logits")), kStored);
}

// Under the authors' initialisation of a model of these sizes: mean, standard deviation and range
// of every parameter.
TEST(GriffinGoldenTest, InitialisationIsTheAuthors) {
  for (const auto& [architecture, folder] :
       {std::pair{"griffin", "griffin_deepmind"}, {"hawk", "hawk"}}) {
    const auto config = find_architecture(architecture).make_config();
    const char* sizes = "{d_model: 256, n_layers: 4, n_heads: 8, lru_width: 352, d_ff: 768}";
    parse_config(*config, parse_config_value(sizes, "test"), "model");
    config->vocab_size = 512;
    const auto model = config->build();
    allocate_parameters(*model, at::kFloat, 1);
    std::map<std::string, at::Tensor> by_name;
    for (const Parameter* parameter : model->parameters())
      by_name[parameter->name] = parameter->value.detach().to(at::kDouble);
    const auto authors = nlohmann::json::parse(read_file(golden_path(folder) + "/init.json"));
    for (const HfTensor& tensor : config->hf_layout().tensors) {
      SCOPED_TRACE(tensor.hf_name);
      const at::Tensor& whole = by_name.at(tensor.name);
      const int64_t end = tensor.end < 0 ? whole.size(0) : tensor.end;
      const at::Tensor value = whole.narrow(0, tensor.begin, end - tensor.begin) + tensor.shift;
      const auto& want = authors.at(tensor.hf_name);
      const double std = want.at("std"), n = static_cast<double>(value.numel());
      // Both are samples: 5 standard errors of the difference (of a normal distribution, wider than
      // lambda's).
      EXPECT_NEAR(value.mean().item<double>(), want.at("mean"), 5 * std * std::sqrt(2 / n));
      EXPECT_NEAR(value.std().item<double>(), std, 5 * std / std::sqrt(n));
      if (tensor.hf_name.find("recurrent_param") == std::string::npos) continue;
      EXPECT_GT(value.min().item<double>(), -6.91);   // a = 0.999
      EXPECT_LT(value.max().item<double>(), -2.197);  // a = 0.9
    }
  }
}

TEST(Mamba2GoldenTest, EveryFormGivesTheAuthorsLogits) {
  for (const char* form : {"{form: parallel}", "{form: recurrent}", "{form: chunk, chunk: 1}",
                           "{form: chunk, chunk: 7}", "{form: chunk, chunk: 64}"})
    for (const char* name : {"mamba2", "mamba2_groups"}) {
      const Golden golden = load_golden(name, at::kDouble, form);
      SafetensorsFile io(golden.folder + "/io.safetensors");
      const at::Tensor logits = golden.model->logits(
          golden.model->hidden(io.read("input_ids").to(at::kInt), Segments{}, nullptr));
      EXPECT_LT(relative_error(logits, io.read("logits")), kStored) << name << " " << form;
    }
}

}  // namespace
}  // namespace ceiling
