#include "modules/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

using Options = LinearCrossEntropyOptions;

struct Result {
  at::Tensor loss, token_loss, dhidden, dweight;
};

Result run(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
           const Options& options) {
  const at::Tensor leaf = hidden.detach().requires_grad_();
  const Parameter w = parameter_of(weight);
  const auto out = linear_cross_entropy(leaf, w, targets, options);
  torch::autograd::backward({out.loss}, {});
  return {out.loss.detach(), out.token_loss, leaf.grad(), w.grad};
}

Result run_reference(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                     const Options& options) {
  const at::Tensor h = hidden.detach().to(at::kCPU, at::kDouble).clone().requires_grad_(),
                   w = weight.detach().to(at::kCPU, at::kDouble).clone().requires_grad_();
  const at::Tensor loss = linear_cross_entropy_reference(h, w, targets.cpu(), options);
  torch::autograd::backward({loss}, {});
  return {loss.detach(), {}, h.grad(), w.grad()};
}

// Logits and their gradients are rounded to bfloat16 there: 2^-8 of the largest logits, over D
// terms.
void expect_reference(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                      const Options& options, double factor = 1) {
  const double tolerance = hidden.scalar_type() == at::kDouble  ? 1e-12
                           : hidden.scalar_type() == at::kFloat ? 1e-5 * factor
                                                                : 0.02 * factor;
  const Result got = run(hidden, weight, targets, options),
               want = run_reference(hidden, weight, targets, options);
  const auto rms = [](const at::Tensor& t) { return t.square().mean().sqrt().item<double>(); };
  expect_close(got.loss, want.loss, {.absolute = 1e-12, .relative = tolerance / 4});
  expect_close(got.dhidden, want.dhidden, {tolerance * rms(want.dhidden), tolerance});
  expect_close(got.dweight, want.dweight, {tolerance * rms(want.dweight), tolerance});
}

class LinearCrossEntropyTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  static constexpr int64_t kRows = 70, kDim = 24, kVocab = 101, kPadded = 128;
  const at::Tensor hidden = random_normal({2, 35, kDim}, "hidden").to(GetParam());
  const at::Tensor weight = random_normal({kPadded, kDim}, "weight", 1, 0.3).to(GetParam());
  at::Tensor targets = random_ints({2, 35}, -1, kVocab, "targets");
  const Options plain{.vocab_size = kVocab, .scale = 1.0 / kRows};
};
INSTANTIATE_TEST_SUITE_P(Types, LinearCrossEntropyTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(LinearCrossEntropyTest, EqualsTheReferenceWithEveryOption) {
  for (const double z_loss : {0.0, 0.1})
    for (const double cap : {0.0, 2.0})
      for (const int64_t chunk : {0, 1, 32, 70}) {
        Options options = plain;
        options.z_loss = z_loss, options.logit_cap = cap, options.chunk = chunk;
        expect_reference(hidden, weight, targets, options, cap > 0 ? 2 : 1);
      }
}

TEST_P(LinearCrossEntropyTest, TakesStridedHiddenStatesAndFlatTargets) {
  expect_reference(strided_copy(hidden), weight, targets, plain);
  expect_reference(hidden.reshape({70, kDim}), weight, targets.reshape({70}), plain);
}

TEST_P(LinearCrossEntropyTest, PaddingRowsAreNeverSeen) {
  at::Tensor poisoned = weight.clone();
  poisoned.narrow(0, kVocab, kPadded - kVocab).fill_(1e4);
  const Result a = run(hidden, weight, targets, plain), b = run(hidden, poisoned, targets, plain);
  expect_close(b.loss, a.loss, {});
  expect_close(b.dhidden, a.dhidden, {});
  expect_close(b.dweight, a.dweight, {});
  EXPECT_EQ(b.dweight.narrow(0, kVocab, kPadded - kVocab).abs().sum().item<double>(), 0);
}

TEST_P(LinearCrossEntropyTest, IgnoredTargetsGiveNothing) {
  targets.fill_(-1);
  const Result got = run(hidden, weight, targets, plain);
  EXPECT_EQ(got.loss.item<double>(), 0);
  EXPECT_EQ(got.dhidden.abs().sum().item<double>(), 0);
  EXPECT_EQ(got.dweight.abs().sum().item<double>(), 0);
}

TEST_P(LinearCrossEntropyTest, EqualLogitsGiveLogOfTheVocabulary) {
  const Result got =
      run(hidden, at::zeros({kPadded, kDim}, GetParam()), targets.clamp_min(0), plain);
  EXPECT_NEAR(got.loss.item<double>(), std::log(static_cast<double>(kVocab)),
              GetParam() == at::kDouble ? 1e-13 : 1e-5);
}

TEST_P(LinearCrossEntropyTest, HugeLogitsStayFinite) {
  const at::Tensor large = hidden * 1e4;
  const Result got = run(large, weight, targets, plain);
  for (const at::Tensor& t : {got.loss, got.dhidden, got.dweight})
    EXPECT_TRUE(at::isfinite(t).all().item<bool>());
  // One-hot: the loss is the gap between the largest logit and the target's. bfloat16 logits of
  // this size are 64 apart, so which is the largest is chance there.
  if (GetParam() != at::kBFloat16) expect_reference(large, weight, targets, plain, 4);
}

TEST_P(LinearCrossEntropyTest, TokenLossesAddUpToTheLoss) {
  Options options = plain;
  options.per_token = true;
  const Result got = run(hidden, weight, targets, options);
  ASSERT_EQ(got.token_loss.sizes(), targets.sizes());
  EXPECT_FALSE(got.token_loss.requires_grad());
  EXPECT_NEAR(got.token_loss.to(at::kDouble).sum().item<double>() / kRows, got.loss.item<double>(),
              1e-6);
  expect_close(got.token_loss.masked_select(targets.lt(0)).sum(), at::zeros({}), {});
  EXPECT_FALSE(run(hidden, weight, targets, plain).token_loss.defined());
}

TEST_P(LinearCrossEntropyTest, WithoutGradientsTheLossIsTheSame) {
  const Result got = run(hidden, weight, targets, plain);
  const Parameter w = parameter_of(weight);
  at::NoGradGuard no_grad;
  expect_close(linear_cross_entropy(hidden, w, targets, plain).loss, got.loss, {});
  EXPECT_EQ(w.grad.abs().sum().item<double>(), 0);
  Parameter bare = w;
  bare.grad = at::Tensor();
  expect_close(linear_cross_entropy(hidden, bare, targets, plain).loss, got.loss, {});
}

TEST_P(LinearCrossEntropyTest, TwoMicroBatchesAddUp) {
  const Parameter w = parameter_of(weight);
  for (int64_t b = 0; b < 2; ++b) {
    const at::Tensor leaf = hidden.select(0, b).detach().requires_grad_();
    torch::autograd::backward({linear_cross_entropy(leaf, w, targets.select(0, b), plain).loss},
                              {});
  }
  const Result whole = run(hidden, weight, targets, plain);
  const double rms = whole.dweight.square().mean().sqrt().item<double>();
  const double tolerance = GetParam() == at::kDouble  ? 1e-12
                           : GetParam() == at::kFloat ? 1e-6
                                                      : 0.01;
  expect_close(w.grad, whole.dweight, {tolerance * rms, tolerance});
}

// The matrix products are the library's, which may add in another order with other threads.
TEST_P(LinearCrossEntropyTest, TheLossIsTheSameForAnyNumberOfThreads) {
  const at::Tensor h = random_normal({700, 1}, "hidden").to(GetParam()),
                   w = random_normal({kPadded, 1}, "w").to(GetParam()),
                   t = random_ints({700}, -1, kVocab, "targets");
  expect_same_for_any_number_of_threads([&] { return Tensors{run(h, w, t, plain).loss}; });
}

TEST_P(LinearCrossEntropyTest, TwoRunsAreEqualBitForBit) {
  const Result a = run(hidden, weight, targets, plain), b = run(hidden, weight, targets, plain);
  expect_close(b.loss, a.loss, {});
  expect_close(b.dhidden, a.dhidden, {});
  expect_close(b.dweight, a.dweight, {});
}

TEST_P(LinearCrossEntropyTest, LogitsAreCappedAndCutToTheVocabulary) {
  const Parameter w = parameter_of(weight);
  at::NoGradGuard no_grad;
  const at::Tensor got = logits(hidden, w, kVocab, 2.0);
  EXPECT_EQ(got.scalar_type(), GetParam() == at::kDouble ? at::kDouble : at::kFloat);
  ASSERT_EQ(got.sizes(), at::IntArrayRef({2, 35, kVocab}));
  const at::Tensor plain_logits = at::mm(hidden.reshape({70, kDim}).to(at::kDouble),
                                         weight.narrow(0, 0, kVocab).to(at::kDouble).t());
  const double tolerance = GetParam() == at::kDouble  ? 1e-12
                           : GetParam() == at::kFloat ? 1e-5
                                                      : 0.02;
  expect_close(got.view({70, kVocab}), (plain_logits / 2).tanh() * 2, {tolerance, tolerance});
}

TEST(LinearCrossEntropy, GradientsEqualCentralDifferences) {
  const at::Tensor targets = random_ints({5}, 0, 6, "targets");
  const at::Tensor hidden = random_normal({5, 3}, "hidden"), weight = random_normal({8, 3}, "w");
  for (const double cap : {0.0, 1.5}) {
    const Options options{.vocab_size = 6, .scale = 0.7, .z_loss = 0.2, .logit_cap = cap};
    const Result got = run(hidden, weight, targets, options);
    at::NoGradGuard no_grad;
    const auto difference = [&](const at::Tensor& moved, int64_t i) {
      double* data = moved.mutable_data_ptr<double>();
      const double kept = data[i], step = 1e-5;
      double value[2];
      for (int side = 0; side < 2; ++side) {
        data[i] = kept + (side == 0 ? step : -step);
        value[side] =
            linear_cross_entropy_reference(hidden, weight, targets, options).item<double>();
      }
      data[i] = kept;
      return (value[0] - value[1]) / (2 * step);
    };
    for (int64_t i = 0; i < hidden.numel(); ++i)
      EXPECT_NEAR(got.dhidden.const_data_ptr<double>()[i], difference(hidden, i), 1e-8);
    for (int64_t i = 0; i < weight.numel(); ++i)
      EXPECT_NEAR(got.dweight.const_data_ptr<double>()[i], difference(weight, i), 1e-8);
  }
}

TEST(LinearCrossEntropy, WrongArgumentsAreNamed) {
  const at::Tensor hidden = random_normal({4, 3}, "hidden"), targets = random_ints({4}, 0, 6, "t");
  const Parameter w = parameter_of(random_normal({8, 3}, "w"));
  const Options options{.vocab_size = 6};
  expect_error([&] { linear_cross_entropy(hidden.narrow(1, 0, 2), w, targets, options); },
               "linear_cross_entropy: hidden has 2 channels, the head 3");
  expect_error([&] { linear_cross_entropy(hidden, w, targets, {.vocab_size = 9}); },
               "linear_cross_entropy: a vocabulary of 9 does not fit a head of 8 rows");
  expect_error([&] { linear_cross_entropy(hidden, w, targets, {.vocab_size = 0}); },
               "linear_cross_entropy: a vocabulary of 0 does not fit a head of 8 rows");
  expect_error([&] { linear_cross_entropy(hidden, w, targets.narrow(0, 0, 3), options); },
               "linear_cross_entropy: 3 targets for 4 rows");
  expect_error([&] { linear_cross_entropy(hidden, w, at::full({4}, 6, at::kInt), options); },
               "linear_cross_entropy: target 6 is outside the vocabulary of 6");
  expect_error([&] { linear_cross_entropy(hidden.to(at::kFloat), w, targets, options); },
               "linear_cross_entropy: hidden is Float, the head Double");
}

TEST(LinearCrossEntropy, AnIncomingGradientOtherThanOneIsRefused) {
  const at::Tensor hidden = random_normal({4, 3}, "hidden").requires_grad_();
  const Parameter w = parameter_of(random_normal({8, 3}, "w"));
  const auto out = linear_cross_entropy(hidden, w, random_ints({4}, 0, 6, "t"), {.vocab_size = 6});
  EXPECT_THROW(torch::autograd::backward({out.loss * 2}, {}), c10::Error);
}

TEST(LinearCrossEntropyGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  const auto relative = [](const at::Tensor& got, const at::Tensor& want) {
    return ((got.to(at::kCPU, at::kDouble) - want).norm() / want.norm()).item<double>();
  };
  // Rows of whole and of broken 16-byte pieces, padding rows, more columns than threads.
  for (const auto& [rows, vocab_size] :
       {std::pair<int64_t, int64_t>{128, 101}, {101, 101}, {8192, 8000}, {5003, 5001}})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const at::Tensor hidden = random_normal({2, 35, 64}, "hidden").to(gpu, dtype),
                       weight = random_normal({rows, 64}, "weight", 1, 0.3).to(gpu, dtype),
                       targets = random_ints({2, 35}, -1, vocab_size, "targets").to(gpu);
      for (const double cap : {0.0, 2.0}) {
        const Options options{.vocab_size = vocab_size,
                              .scale = 1.0 / 70,
                              .z_loss = 0.1,
                              .logit_cap = cap,
                              .chunk = 32};
        if (dtype == at::kFloat) {
          expect_reference(hidden, weight, targets, options, 2);
          continue;
        }
        // Of half a million rounded gradients some lie far out: the norm of the difference counts,
        // 2^-9 for each of two roundings and of logits of size 4.
        const Result got = run(hidden, weight, targets, options),
                     want = run_reference(hidden, weight, targets, options);
        EXPECT_LT(relative(got.loss, want.loss), 1e-3);
        EXPECT_LT(relative(got.dhidden, want.dhidden), 8e-3);
        EXPECT_LT(relative(got.dweight, want.dweight), 8e-3);
      }
    }
}

}  // namespace
}  // namespace ceiling
