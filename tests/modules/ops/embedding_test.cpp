#include "modules/ops/embedding/embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
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

Tensors rows(const Tensors& in, const std::vector<Parameter>& p) {
  return {embedding(in[0], p[0], 1.5)};
}
Tensors rows_reference(const Tensors& in, const Tensors& w) {
  return {w[0].index_select(0, in[0].reshape({-1}).to(at::kLong))
              .view({in[0].size(0), in[0].size(1), -1}) *
          1.5};
}

class EmbeddingTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, EmbeddingTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(EmbeddingTest, EqualsTheReference) {
  // Few rows, many tokens: each row is met often.
  for (const int64_t dim : {1, 17, 130}) {
    const at::Tensor tokens = random_ints({3, 40}, 0, 7, "tokens");
    for (const at::Tensor& ids :
         {tokens, tokens.to(at::kLong), strided_copy(tokens.to(at::kDouble)).to(at::kInt)})
      expect_equals_reference(rows, rows_reference, {ids}, {random_normal({7, dim}, "w")},
                              GetParam(), usual_tolerance(GetParam()));
  }
}

TEST_P(EmbeddingTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor tokens = random_ints({2, 700}, 0, 11, "tokens"),
                   w = random_normal({11, 200}, "w").to(GetParam());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(rows, {tokens}, {w});
    return Tensors{r.outputs[0], r.weight_grads[0]};
  });
}

TEST(Embedding, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences(rows, {random_ints({2, 5}, 0, 4, "tokens")},
                                     {random_normal({4, 3}, "w")});
}

TEST(Embedding, TwoBackwardsAddUp) {
  const Parameter w = parameter_of(random_normal({4, 3}, "w"));
  const at::Tensor tokens = random_ints({2, 5}, 0, 4, "tokens"),
                   dy = random_normal({2, 5, 3}, "dy");
  torch::autograd::backward({embedding(tokens, w, 1)}, {dy});
  const at::Tensor once = w.grad.clone();
  torch::autograd::backward({embedding(tokens, w, 1)}, {dy});
  expect_close(w.grad, 2 * once, {.absolute = 1e-14});
}

TEST(Embedding, WorksWithoutAGradientBufferWhereNoGradientIsWanted) {
  Parameter w = parameter_of(random_normal({4, 3}, "w"));
  w.grad = at::Tensor();
  at::NoGradGuard no_grad;
  expect_close(embedding(at::full({1, 1}, 2, at::kInt), w, 1).view({3}), w.value.select(0, 2), {});
}

TEST(Embedding, TokensOutsideTheVocabularyAreNamed) {
  const Parameter w = parameter_of(random_normal({4, 3}, "w"));
  expect_error(
      [&] {
        embedding(at::full({1, 2}, 4, at::kInt), w, 1);
      },
      "embedding: token 4 is outside the vocabulary of 4");
  expect_error(
      [&] {
        embedding(at::full({1, 2}, -1, at::kLong), w, 1);
      },
      "embedding: token -1 is outside the vocabulary of 4");
}

// Token k about as often as 1 / (k + 1), as words are.
at::Tensor zipf(at::IntArrayRef shape, int64_t vocab) {
  const at::Tensor even = random_ints(shape, 0, 100000, "zipf").to(at::kDouble) / 100000;
  return ((even * std::log(vocab)).exp() - 1).to(at::kInt);
}

TEST(EmbeddingGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  // Runs of equal tokens within a block, over a block's end, over many blocks; all equal.
  for (const at::Tensor& tokens :
       {random_ints({3, 40}, 0, 7, "tokens"), random_ints({1, 1}, 0, 7, "tokens"),
        random_ints({1, 64}, 0, 300, "tokens"), random_ints({4, 10000}, 0, 300, "tokens"),
        at::full({3, 500}, 5, at::kInt), zipf({2, 4001}, 300)})
    for (const int64_t dim : {1, 130, 132})  // 132: whole 16-byte pieces
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        // Sums of up to 1,500 rows: their rounding grows with the root of that.
        expect_equals_reference(rows, rows_reference, {tokens}, {random_normal({300, dim}, "w")},
                                dtype, 4 * usual_tolerance(dtype), gpu);
}

TEST(EmbeddingGpu, IsTheSameTwice) {
  const at::Device gpu = pick_device("cuda");
  for (const int64_t dim : {33, 96})
    for (const at::Tensor& tokens :
         {random_ints({4, 1000}, 0, 50, "tokens"), zipf({2, 4001}, 50), at::full({1, 900}, 5)}) {
      const at::Tensor ids = tokens.to(gpu, at::kInt);
      const Tensors weight = {random_normal({50, dim}, "w").to(gpu, at::kBFloat16)};
      const OpResult first = run_op(rows, {ids}, weight), second = run_op(rows, {ids}, weight);
      EXPECT_TRUE(first.weight_grads[0].equal(second.weight_grads[0]));
    }
}

TEST(EmbeddingGpu, TwoBackwardsAddUp) {
  const at::Device gpu = pick_device("cuda");
  const Parameter w = parameter_of(random_normal({50, 8}, "w").to(gpu, at::kBFloat16));
  const at::Tensor tokens = zipf({2, 900}, 50).to(gpu);
  const at::Tensor dy = random_normal({2, 900, 8}, "dy").to(gpu, at::kBFloat16);
  torch::autograd::backward({embedding(tokens, w, 1)}, {dy});
  const at::Tensor once = w.grad.clone();
  torch::autograd::backward({embedding(tokens, w, 1)}, {dy});
  expect_close(w.grad, 2 * once, {});
}

}  // namespace
}  // namespace ceiling
