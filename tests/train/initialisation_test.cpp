// The model before its first step guesses uniformly, whatever its width and vocabulary.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/model.h"

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
                         [](const auto& info) {
                           std::string name = std::to_string(info.index) + "_" + info.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace ceiling
