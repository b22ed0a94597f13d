// Properties that every architecture must have. Each tiny model of each registered architecture
// runs through all of them; a new architecture joins by registering.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "modules/lm.h"
#include "tests/support/counted_memory.h"
#include "tests/support/expect_close.h"
#include "tests/support/model.h"

namespace ceiling {
namespace {

constexpr int64_t kVocab = 61;

at::Tensor logits_of(LanguageModel& model, const at::Tensor& tokens, const Segments& segments = {},
                     ModelState* state = nullptr) {
  return model.logits(model.hidden(tokens, segments, state));
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

at::Tensor documents(std::vector<std::vector<int>> rows) {
  at::Tensor out = at::empty(
      {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())}, at::kInt);
  for (size_t b = 0; b < rows.size(); ++b)
    for (size_t t = 0; t < rows[b].size(); ++t)
      out[static_cast<int64_t>(b)][static_cast<int64_t>(t)] = rows[b][t];
  return out;
}

// A row of documents of these lengths.
std::vector<int> document_row(const std::vector<int64_t>& lengths, int first = 0) {
  std::vector<int> row;
  for (size_t i = 0; i < lengths.size(); ++i)
    row.insert(row.end(), static_cast<size_t>(lengths[i]), first + static_cast<int>(i));
  return row;
}

class ArchitectureTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ArchitectureTest, LaterTokensDoNotChangeEarlierLogits) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  at::NoGradGuard no_grad;
  at::Tensor tokens = random_tokens(2, 40, kVocab, 3);
  const at::Tensor before = logits_of(*made.model, tokens);
  for (const int64_t cut : {1, 17, 39}) {
    at::Tensor changed = tokens.clone();
    changed.narrow(1, cut, 40 - cut).copy_((tokens.narrow(1, cut, 40 - cut) + 1).remainder(kVocab));
    const at::Tensor after = logits_of(*made.model, changed);
    EXPECT_TRUE(at::equal(after.narrow(1, 0, cut), before.narrow(1, 0, cut))) << "cut at " << cut;
    EXPECT_GT(largest_difference(after.narrow(1, cut, 1), before.narrow(1, cut, 1)), 1e-6);
  }
}

TEST_P(ArchitectureTest, PrefillInAnyPiecesThenDecodingEqualsTheSinglePass) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  at::NoGradGuard no_grad;
  const at::Tensor tokens = random_tokens(2, 277, kVocab, 4);
  const at::Tensor whole = logits_of(*made.model, tokens);
  // to 1.8e-3).
  const double bound = 1e-10;
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{257}, {64, 64, 64, 64, 1}, {1, 2, 3, 4, 5, 242}, {100, 1, 1, 155}}) {
    ModelState state;
    std::vector<at::Tensor> pieces;
    int64_t at_token = 0;
    for (const int64_t n : cuts) {
      pieces.push_back(logits_of(*made.model, tokens.narrow(1, at_token, n), {}, &state));
      at_token += n;
    }
    for (; at_token < 277; ++at_token)
      pieces.push_back(logits_of(*made.model, tokens.narrow(1, at_token, 1), {}, &state));
    EXPECT_LT(largest_difference(at::cat(pieces, 1), whole), bound) << "first piece " << cuts[0];
  }
}

TEST_P(ArchitectureTest, GradientsThroughACarriedStateEqualTheSinglePass) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  const at::Tensor tokens = random_tokens(2, 50, kVocab, 5), targets = next_tokens(tokens);
  const auto gradients = [&](const std::vector<int64_t>& cuts) {
    zero_gradients(*made.model);
    ModelState state;
    std::vector<at::Tensor> losses;
    int64_t at_token = 0;
    for (const int64_t n : cuts) {
      const at::Tensor hidden =
          made.model->hidden(tokens.narrow(1, at_token, n), {}, cuts.size() > 1 ? &state : nullptr);
      losses.push_back(
          made.model->loss(hidden, targets.narrow(1, at_token, n), {.scale = 0.01}).loss);
      at_token += n;
    }
    torch::autograd::backward(losses, std::vector<at::Tensor>(losses.size()));
    std::vector<at::Tensor> out;
    for (const Parameter* parameter : made.model->parameters())
      out.push_back(parameter->grad.clone());
    return out;
  };
  const auto whole = gradients({50}), cut = gradients({17, 1, 32});
  const auto parameters = made.model->parameters();
  for (size_t i = 0; i < whole.size(); ++i)
    EXPECT_LT(largest_difference(whole[i], cut[i]),
              1e-12 + 1e-10 * whole[i].abs().max().item<double>())
        << parameters[i]->name;
}

TEST_P(ArchitectureTest, PackedDocumentsEqualSeparateOnes) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  const at::Tensor tokens = random_tokens(2, 40, kVocab, 6);
  const std::vector<std::vector<int64_t>> lengths = {{7, 1, 16, 16}, {33, 1, 1, 5}};
  const Segments segments =
      make_segments(documents({document_row(lengths[0]), document_row(lengths[1])}));
  at::NoGradGuard no_grad;
  const at::Tensor packed = logits_of(*made.model, tokens, segments);
  for (int64_t row = 0; row < 2; ++row) {
    int64_t begin = 0;
    for (const int64_t n : lengths[static_cast<size_t>(row)]) {
      const at::Tensor alone = logits_of(*made.model, tokens.narrow(0, row, 1).narrow(1, begin, n));
      EXPECT_LT(largest_difference(packed.narrow(0, row, 1).narrow(1, begin, n), alone), 1e-10)
          << "row " << row << " at " << begin;
      begin += n;
    }
  }
}

TEST_P(ArchitectureTest, GradientsOfPackedDocumentsAreTheSumOfSeparateOnes) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  const at::Tensor tokens = random_tokens(1, 40, kVocab, 7);
  const std::vector<int64_t> lengths = {7, 1, 16, 16};
  at::Tensor targets = next_tokens(tokens);
  int64_t end = 0;
  for (const int64_t n : lengths) targets[0][(end += n) - 1] = -1;
  torch::autograd::backward(
      {made.model
           ->loss(made.model->hidden(tokens, make_segments(documents({document_row(lengths)})),
                                     nullptr),
                  targets, {})
           .loss},
      {});
  std::vector<at::Tensor> packed;
  for (const Parameter* parameter : made.model->parameters())
    packed.push_back(parameter->grad.clone());
  zero_gradients(*made.model);
  int64_t begin = 0;
  for (const int64_t n : lengths) {
    torch::autograd::backward(
        {made.model
             ->loss(made.model->hidden(tokens.narrow(1, begin, n), {}, nullptr),
                    targets.narrow(1, begin, n), {})
             .loss},
        {});
    begin += n;
  }
  const auto parameters = made.model->parameters();
  for (size_t i = 0; i < parameters.size(); ++i)
    EXPECT_LT(largest_difference(packed[i], parameters[i]->grad),
              1e-12 + 1e-9 * packed[i].abs().max().item<double>())
        << parameters[i]->name;
}

TEST_P(ArchitectureTest, ADocumentThatStartsInALaterPieceForgetsTheCarriedState) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  at::NoGradGuard no_grad;
  const at::Tensor tokens = random_tokens(2, 30, kVocab, 8);
  ModelState state;
  logits_of(*made.model, tokens.narrow(1, 0, 10), {}, &state);
  // Row 0 continues for 3 tokens, then starts anew; row 1 starts anew at once.
  const Segments segments = make_segments(documents({document_row({3, 7}), document_row({10}, 1)}));
  logits_of(*made.model, tokens.narrow(1, 10, 10), segments, &state);
  std::vector<at::Tensor> decoded;
  for (int64_t t = 20; t < 30; ++t)
    decoded.push_back(logits_of(*made.model, tokens.narrow(1, t, 1), {}, &state));
  const at::Tensor after = at::cat(decoded, 1);
  const double bound = 1e-10;
  const at::Tensor row0 =
      logits_of(*made.model, tokens.narrow(0, 0, 1).narrow(1, 13, 17)).narrow(1, 7, 10);
  const at::Tensor row1 =
      logits_of(*made.model, tokens.narrow(0, 1, 1).narrow(1, 10, 20)).narrow(1, 10, 10);
  EXPECT_LT(largest_difference(after.narrow(0, 0, 1), row0), bound);
  EXPECT_LT(largest_difference(after.narrow(0, 1, 1), row1), bound);
}

TEST_P(ArchitectureTest, RecomputingChangesNoBitAndKeepsLess) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const TestModel made = make_tiny(GetParam(), dtype);
    const at::Tensor tokens = random_tokens(2, 40, kVocab, 9), targets = next_tokens(tokens);
    const Segments segments =
        make_segments(documents({document_row({20, 20}), document_row({40})}));
    std::vector<at::Tensor> expected;
    double expected_loss = 0;
    int64_t kept_before = 0;
    // What the first pass makes and the model keeps (rotary tables) is not kept for the gradient.
    made.model->hidden(tokens, segments, nullptr);
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kBlock}) {
      SCOPED_TRACE(static_cast<int>(recompute));
      zero_gradients(*made.model);
      const CountedMemory memory;
      const at::Tensor hidden = made.model->hidden(tokens, segments, nullptr, recompute);
      const int64_t kept = memory.held();
      const at::Tensor loss = made.model->loss(hidden, targets, {.scale = 0.01}).loss;
      torch::autograd::backward({loss}, {});
      const bool first = recompute == Recompute::kNone;
      if (first) expected_loss = loss.item<double>();
      EXPECT_EQ(loss.item<double>(), expected_loss);
      EXPECT_TRUE(first || kept < kept_before) << kept << " bytes, " << kept_before << " before";
      kept_before = kept;
      size_t i = 0;
      for (const Parameter* parameter : made.model->parameters()) {
        if (first) expected.push_back(parameter->grad.clone());
        EXPECT_TRUE(at::equal(parameter->grad, expected[i++])) << parameter->name;
      }
    }
  }
}

TEST_P(ArchitectureTest, EveryParameterTakesPartAndItsGradientIsTheSlopeOfTheLoss) {
  const TestModel made = make_tiny(GetParam(), at::kDouble);
  const at::Tensor tokens = random_tokens(2, 20, kVocab, 10), targets = next_tokens(tokens);
  const auto loss = [&] {
    return made.model->loss(made.model->hidden(tokens, {}, nullptr), targets, {.scale = 0.05}).loss;
  };
  torch::autograd::backward({loss()}, {});
  const double h = 1e-6;
  const double bound = 1e-7;
  for (Parameter* parameter : made.model->parameters()) {
    at::NoGradGuard no_grad;
    const at::Tensor direction =
        at::randn(parameter->shape, at::TensorOptions().dtype(at::kDouble));
    const double slope = (parameter->grad * direction).sum().item<double>();
    const auto loss_at = [&](double step) {
      parameter->value.add_(direction, step);
      const double value = loss().item<double>();
      parameter->value.sub_(direction, step);
      return value;
    };
    // Fourth order: the norms of small head outputs are strongly curved.
    const double difference =
        (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
    EXPECT_NEAR(slope, difference, bound * std::max(1.0, std::abs(slope))) << parameter->name;
    EXPECT_GT(parameter->grad.abs().max().item<double>(), 0)
        << parameter->name << " has no gradient";
  }
}

TEST_P(ArchitectureTest, StateBytesAreWhatTheStateHolds) {
  const TestModel made = make_tiny(GetParam(), at::kFloat);
  at::NoGradGuard no_grad;
  ModelState state;
  logits_of(*made.model, random_tokens(1, 37, kVocab, 11), {}, &state);
  double held = 0;
  for (const State& layer : state.layers)
    for (const at::Tensor& tensor : layer.tensors)
      held += static_cast<double>(
          (layer.length > 0 ? tensor.narrow(1, 0, layer.length) : tensor).numel() *
          tensor.element_size());
  EXPECT_EQ(held, made.model->state_bytes(37, 4));
}

TEST_P(ArchitectureTest, InitialisationDoesNotDependOnOrderAndSeedsDiffer) {
  const TestModel a = make_tiny(GetParam(), at::kFloat), b = make_tiny(GetParam(), at::kFloat);
  const auto pa = a.model->parameters(), pb = b.model->parameters();
  for (size_t i = 0; i < pa.size(); ++i) {
    at::Tensor first = at::empty(pa[i]->shape, at::kFloat),
               again = at::empty(pa[i]->shape, at::kFloat);
    initialize(*pa[i], 5, first);
    for (size_t j = pb.size(); j-- > 0;)
      if (pb[j]->name == pa[i]->name) initialize(*pb[j], 5, again);
    EXPECT_TRUE(at::equal(first, again)) << pa[i]->name;
    initialize(*pb[i], 6, again);
    if (pa[i]->shape.size() == 2 && pa[i]->options.decay) {  // not a constant
      EXPECT_FALSE(at::equal(first, again)) << pa[i]->name;
    }
  }
}

// Built in main's time, not at load: registration order of translation units is not defined.
INSTANTIATE_TEST_SUITE_P(All, ArchitectureTest, ::testing::ValuesIn(tiny_models()),
                         tiny_model_name);

}  // namespace
}  // namespace ceiling
