// The model before its first step guesses uniformly, whatever its width and vocabulary.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "tests/support/model.h"
#include "tests/support/source_dir.h"

namespace ceiling {
namespace {

class InitialisationTest : public ::testing::TestWithParam<std::string> {};

TEST_P(InitialisationTest, FirstLossIsThatOfAUniformGuess) {
  at::NoGradGuard no_grad;
  for (const auto& [width, vocab_size] :
       {std::pair<int64_t, int64_t>{64, 259}, {64, 50304}, {512, 2000}, {2048, 259}}) {
    std::string yaml = GetParam().substr(GetParam().find(' ') + 1);
    const std::string narrow = "d_model: 32", tied = ", tie_embeddings: true";
    yaml.replace(yaml.find(narrow), narrow.size(), "d_model: " + std::to_string(width));
    // A tied head knows the token it stands on by heart at great width; so does the authors'.
    if (const size_t at = yaml.find(tied); at != std::string::npos)
      yaml.replace(at, tied.size(), ", tie_embeddings: false");
    const auto config = find_architecture(GetParam().substr(0, GetParam().find(' '))).make_config();
    parse_config(*config, parse_config_value(yaml, "test"), "model");
    config->vocab_size = vocab_size, config->context = 64;
    const auto model = config->build();
    allocate_parameters(*model, at::kFloat, 1);
    const at::Tensor tokens = random_tokens(4, 64, vocab_size, 5);
    const double loss =
        model->loss(model->hidden(tokens, {}, nullptr), next_tokens(tokens), {.scale = 1.0 / 252})
            .loss.item<double>();
    double head_variance = 0;
    for (const Parameter* parameter : model->parameters())
      if (parameter->name == "head.weight")
        head_variance = parameter->value.to(at::kDouble).pow(2).mean().item<double>();
    // Logits of a normalised vector: variance width * head_variance, and mean of exp e^(half that).
    const double uniform = std::log(static_cast<double>(vocab_size)),
                 wanted = uniform + 0.5 * static_cast<double>(width) * head_variance;
    EXPECT_NEAR(loss, wanted, 0.05 * uniform) << width << " wide, vocabulary " << vocab_size;
  }
}

INSTANTIATE_TEST_SUITE_P(All, InitialisationTest, ::testing::ValuesIn(tiny_models()),
                         tiny_model_name);

// Means and deviations of every parameter under the authors' own initialisation (tests/golden/
// init_stats, one draw of theirs against 32 of ours), to what a draw of that size scatters.
TEST(Initialisation, Mamba2StartsAsTheAuthors) {
  const auto authors = nlohmann::json::parse(
      read_file(source_dir() + "/tests/golden/init_stats/mamba2.json"))["parameters"];
  const auto config = find_architecture("mamba2").make_config();
  parse_config(*config,
               parse_config_value("{d_model: 256, n_layers: 4, tie_embeddings: true}", "test"),
               "model");
  config->vocab_size = 512;
  const auto model = config->build();
  std::map<std::string, const Parameter*> by_name;
  for (const Parameter* parameter : model->parameters()) by_name[parameter->name] = parameter;
  const HfLayout layout = config->hf_layout();
  EXPECT_EQ(layout.tensors.size(), authors.size());
  for (const HfTensor& tensor : layout.tensors) {
    const std::string theirs = tensor.hf_name == "backbone.embeddings.weight"
                                   ? "backbone.embedding.weight"
                                   : tensor.hf_name;
    const nlohmann::json& want = authors.at(theirs);
    const Parameter& parameter = *by_name.at(tensor.name);
    EXPECT_EQ(parameter.shape, want.at("shape").get<std::vector<int64_t>>()) << theirs;
    constexpr int64_t kDraws = 32;
    at::Tensor draws = at::empty({kDraws, parameter.numel()}, at::kDouble);
    for (int64_t seed = 0; seed < kDraws; ++seed) {
      at::Tensor value = draws[seed].view(parameter.shape);
      initialize(parameter, static_cast<uint64_t>(seed), value);
    }
    const double mean = want.at("mean").get<double>(), std = want.at("std").get<double>(),
                 ours = draws.std().item<double>(),
                 root = std::sqrt(static_cast<double>(parameter.numel()));
    EXPECT_NEAR(draws.mean().item<double>(), mean, 4 * ours / root) << theirs;
    EXPECT_NEAR(ours, std, 3 * ours / root) << theirs;
    // Neither reaches further than the other by more than a tail.
    EXPECT_GE(want.at("min").get<double>(), draws.min().item<double>() - 0.5 * ours) << theirs;
    EXPECT_LE(want.at("max").get<double>(), draws.max().item<double>() + 0.5 * ours) << theirs;
  }
}

}  // namespace
}  // namespace ceiling
