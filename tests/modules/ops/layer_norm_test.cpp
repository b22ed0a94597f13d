#include "modules/ops/layer_norm/layer_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

constexpr double kEps = 1e-5;

Tensors norm(const Tensors& in, const std::vector<Parameter>& p) {
  return {layer_norm(in[0], p[0], p.size() > 1 ? &p[1] : nullptr, kEps)};
}
Tensors norm_reference(const Tensors& in, const Tensors& w) {
  return {layer_norm_reference(in[0], w[0], w.size() > 1 ? w[1] : at::Tensor(), kEps)};
}
Tensors weight_and_bias(int64_t dim) {
  return {1 + random_normal({dim}, "w", 1, 0.3), random_normal({dim}, "b")};
}
// Rows whose mean is larger than their deviation.
at::Tensor rows_off_centre(at::IntArrayRef shape) {
  return random_normal(shape, "x") + 3 * random_normal({shape[0], 1}, "mean");
}

TEST(LayerNorm, TheReferenceIsTorchs) {
  const at::Tensor x = rows_off_centre({9, 40});
  const Tensors w = weight_and_bias(40);
  expect_close(norm_reference({x}, w)[0], at::layer_norm(x, {40}, w[0], w[1], kEps),
               {.absolute = 1e-13});
  expect_close(norm_reference({x}, {w[0]})[0], at::layer_norm(x, {40}, w[0], {}, kEps),
               {.absolute = 1e-13});
}

class LayerNormTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, LayerNormTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(LayerNormTest, EqualsTheReferenceAtAnyWidth) {
  // 70 rows: more than one block of weight gradients, the last one short. Of two channels
  // only the signs are left: there float64 alone has a gradient to compare.
  for (const int64_t dim : {2, 15, 16, 17, 256, 300}) {
    if (dim == 2 && GetParam() != at::kDouble) continue;
    const Tensors w = weight_and_bias(dim);
    for (const Tensors& given : {w, Tensors{w[0]}})
      expect_equals_reference(norm, norm_reference, {rows_off_centre({70, dim})}, given, GetParam(),
                              usual_tolerance(GetParam()));
  }
}

TEST_P(LayerNormTest, TakesStridedInputs) {
  const at::Tensor x = strided_copy(random_normal({2, 5, 33}, "x").to(GetParam()));
  expect_equals_reference(norm, norm_reference, {x}, weight_and_bias(33), GetParam(),
                          usual_tolerance(GetParam()));
}

TEST_P(LayerNormTest, AMeanFarFromZeroCostsNoDigits) {
  // mean(x^2) - mean(x)^2 would be noise here.
  const double far = GetParam() == at::kDouble ? 1e8 : 1e3;
  const at::Tensor x = (random_normal({5, 64}, "x") + far).to(GetParam()),
                   want = layer_norm_reference(x.to(at::kDouble), at::full({64}, 1.0, at::kDouble),
                                               {}, kEps);
  const OpResult got = run_op(norm, {x}, {at::full({64}, 1.0, GetParam())});
  const double tolerance = GetParam() == at::kBFloat16 ? 8e-3 : 1e-4;
  expect_close(got.outputs[0].detach().to(at::kDouble), want, {.absolute = 4 * tolerance});
}

TEST_P(LayerNormTest, AConstantRowIsTheBias) {
  for (const int64_t dim : {1, 20}) {
    const at::Tensor x = at::full({3, dim}, 7.0, GetParam());
    const Tensors w = {random_normal({dim}, "w").to(GetParam()),
                       random_normal({dim}, "b").to(GetParam())};
    const OpResult got = run_op(norm, {x}, w);
    for (int64_t row = 0; row < 3; ++row) expect_close(got.outputs[0].detach()[row], w[1], {});
  }
}

TEST_P(LayerNormTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor x = random_normal({517, 96}, "x").to(GetParam());
  const Tensors w = {random_normal({96}, "w").to(GetParam()),
                     random_normal({96}, "b").to(GetParam())};
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(norm, {x}, w);
    return Tensors{r.outputs[0], r.input_grads[0], r.weight_grads[0], r.weight_grads[1]};
  });
}

TEST(LayerNorm, GradientsEqualCentralDifferences) {
  const Tensors w = weight_and_bias(7);
  expect_gradients_equal_differences(norm, {random_normal({2, 3, 7}, "x")}, w);
  expect_gradients_equal_differences(norm, {random_normal({3, 7}, "x")}, {w[0]});
}

TEST(LayerNorm, TwoBackwardsAddUp) {
  const Tensors w = weight_and_bias(8);
  const Parameter weight = parameter_of(w[0]), bias = parameter_of(w[1]);
  const at::Tensor x = random_normal({4, 8}, "x").requires_grad_(),
                   dy = random_normal({4, 8}, "dy");
  torch::autograd::backward({layer_norm(x, weight, &bias, kEps)}, {dy});
  const at::Tensor once = weight.grad.clone(), bias_once = bias.grad.clone();
  torch::autograd::backward({layer_norm(x, weight, &bias, kEps)}, {dy});
  expect_close(weight.grad, 2 * once, {.absolute = 1e-14});
  expect_close(bias.grad, 2 * bias_once, {.absolute = 1e-14});
}

TEST(LayerNorm, WorksWithoutAGradientBufferWhereNoGradientIsWanted) {
  Parameter w = parameter_of(random_normal({8}, "w"));
  w.grad = at::Tensor();
  at::NoGradGuard no_grad;
  const at::Tensor x = random_normal({4, 8}, "x");
  expect_close(layer_norm(x, w, nullptr, kEps), layer_norm_reference(x, w.value, {}, kEps),
               {.absolute = 1e-14});
}

TEST(LayerNorm, WrongArgumentsAreNamed) {
  const Parameter w = parameter_of(random_normal({8}, "w")),
                  b = parameter_of(random_normal({7}, "b"));
  const at::Tensor x = random_normal({4, 9}, "x");
  expect_error([&] { layer_norm(x, w, nullptr, kEps); },
               "layer_norm: x has 9 channels, the weight 8");
  expect_error([&] { layer_norm(x.narrow(1, 0, 8), w, &b, kEps); },
               "layer_norm: x has 8 channels, the bias 7");
  expect_error([&] { layer_norm(x.narrow(1, 0, 8).to(at::kFloat), w, nullptr, kEps); },
               "layer_norm: x is Float, the weight Double");
}

class LayerNormGpuTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  const at::Device gpu_ = pick_device("cuda");
};
INSTANTIATE_TEST_SUITE_P(Types, LayerNormGpuTest, ::testing::Values(at::kFloat, at::kBFloat16));

// So many rows are more than one turn of a backward pass.
TEST_P(LayerNormGpuTest, EqualsTheReferenceAtAnyWidth) {
  for (const int64_t dim : {15, 64, 96, 128, 384, 512, 768, 1000, 2048, 4096, 4100, 8192})
    for (const int64_t rows : {int64_t{5}, dim <= 512 ? int64_t{3300} : int64_t{1100}})
      expect_equals_reference(norm, norm_reference, {rows_off_centre({rows, dim})},
                              weight_and_bias(dim), GetParam(), 2 * usual_tolerance(GetParam()),
                              gpu_);
}

TEST_P(LayerNormGpuTest, TwoRunsAgreeToTheBit) {
  for (const int64_t dim : {64, 768, 1001, 8192}) {
    const at::Tensor x = random_normal({1100, dim}, "x").to(gpu_, GetParam());
    const Tensors w = {random_normal({dim}, "w").to(gpu_, GetParam()),
                       random_normal({dim}, "b").to(gpu_, GetParam())};
    const OpResult once = run_op(norm, {x}, w), again = run_op(norm, {x}, w);
    EXPECT_TRUE(at::equal(once.outputs[0], again.outputs[0])) << dim;
    EXPECT_TRUE(at::equal(once.input_grads[0], again.input_grads[0])) << dim;
    EXPECT_TRUE(at::equal(once.weight_grads[0], again.weight_grads[0])) << dim;
    EXPECT_TRUE(at::equal(once.weight_grads[1], again.weight_grads[1])) << dim;
  }
}

}  // namespace
}  // namespace ceiling
