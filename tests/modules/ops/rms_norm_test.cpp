#include "modules/ops/rms_norm/rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
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

constexpr double kEps = 1e-6;

Tensors norm(const Tensors& in, const std::vector<Parameter>& p) {
  return {rms_norm(in[0], p[0], kEps)};
}
Tensors norm_reference(const Tensors& in, const Tensors& w) {
  return {rms_norm_reference(in[0], w[0], kEps)};
}
Tensors add_norm(const Tensors& in, const std::vector<Parameter>& p) {
  const AddRmsNormOutput out = add_rms_norm(in[0], in[1], p[0], kEps);
  return {out.y, out.residual};
}
Tensors add_norm_reference(const Tensors& in, const Tensors& w) {
  const at::Tensor sum = in[0] + in[1];
  return {rms_norm_reference(sum, w[0], kEps), sum};
}

Tensors norm_beside(const Tensors& in, const std::vector<Parameter>& p) {
  const AddRmsNormOutput out = rms_norm_beside(in[0], p[0], kEps);
  return {out.y, out.residual};
}
Tensors norm_beside_reference(const Tensors& in, const Tensors& w) {
  return {rms_norm_reference(in[0], w[0], kEps), in[0]};
}

class RmsNormTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, RmsNormTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(RmsNormTest, EqualsTheReferenceAtAnyWidth) {
  // 70 rows: more than one block of weight gradients, the last one short.
  for (const int64_t dim : {1, 15, 16, 17, 256, 300}) {
    // With one channel dx is a difference of equal numbers: nothing of it is left in float.
    if (dim == 1 && GetParam() != at::kDouble) continue;
    expect_equals_reference(norm, norm_reference, {random_normal({2, 35, dim}, "x")},
                            {1 + random_normal({dim}, "w", 1, 0.3)}, GetParam(),
                            usual_tolerance(GetParam()));
  }
}

TEST_P(RmsNormTest, WithResidualEqualsTheReference) {
  // bfloat16: the residual stream is rounded once more before the norm.
  const double tolerance = usual_tolerance(GetParam()) * (GetParam() == at::kBFloat16 ? 2 : 1);
  for (const int64_t dim : {3, 17, 256})
    expect_equals_reference(add_norm, add_norm_reference,
                            {random_normal({70, dim}, "x"), random_normal({70, dim}, "residual")},
                            {1 + random_normal({dim}, "w", 1, 0.3)}, GetParam(), tolerance);
}

TEST_P(RmsNormTest, BesideItsInputEqualsTheReference) {
  for (const int64_t dim : {3, 17, 256})
    expect_equals_reference(norm_beside, norm_beside_reference, {random_normal({70, dim}, "x")},
                            {1 + random_normal({dim}, "w", 1, 0.3)}, GetParam(),
                            usual_tolerance(GetParam()));
}

TEST_P(RmsNormTest, BesideItsInputEitherOutputMayBeUnused) {
  const at::Tensor x = random_normal({70, 17}, "x"), w = 1 + random_normal({17}, "w", 1, 0.3);
  expect_equals_reference(
      [](const Tensors& in, const auto& p) { return Tensors{norm_beside(in, p)[0]}; },
      norm_reference, {x}, {w}, GetParam(), usual_tolerance(GetParam()));
  const OpResult got =
      run_op([](const Tensors& in, const auto& p) { return Tensors{norm_beside(in, p)[1]}; },
             {x.to(GetParam())}, {w.to(GetParam())});
  const OpResult want = run_op([](const Tensors& in, const auto&) { return Tensors{1 * in[0]}; },
                               {x.to(GetParam())}, {w.to(GetParam())});
  EXPECT_TRUE(at::equal(got.input_grads[0], want.input_grads[0]));
  EXPECT_TRUE(at::equal(got.weight_grads[0], at::zeros_like(got.weight_grads[0])));
}

TEST_P(RmsNormTest, TakesStridedInputs) {
  const at::Tensor x = strided_copy(random_normal({2, 5, 33}, "x").to(GetParam())),
                   residual = strided_copy(random_normal({2, 5, 33}, "residual").to(GetParam()));
  const Tensors w = {1 + random_normal({33}, "w", 1, 0.3)};
  expect_equals_reference(norm, norm_reference, {x}, w, GetParam(), usual_tolerance(GetParam()));
  expect_equals_reference(add_norm, add_norm_reference, {x, residual}, w, GetParam(),
                          2 * usual_tolerance(GetParam()));
}

TEST_P(RmsNormTest, LargeAndTinyRowsKeepTheirScale) {
  const at::Tensor x = random_normal({3, 64}, "x") * at::full({3, 1}, 1.0, at::kDouble);
  x.select(0, 0).mul_(1e4), x.select(0, 1).mul_(1e-6), x.select(0, 2).zero_();
  const OpResult got = run_op(norm, {x.to(GetParam())}, {at::full({64}, 1.0, GetParam())});
  const at::Tensor want =
      rms_norm_reference(x.to(GetParam()).to(at::kDouble), at::full({64}, 1.0, at::kDouble), kEps);
  const double tolerance = usual_tolerance(GetParam());
  expect_close(got.outputs[0], want, {.absolute = 1e-30, .relative = tolerance});
}

TEST_P(RmsNormTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor x = random_normal({517, 96}, "x").to(GetParam()),
                   residual = random_normal({517, 96}, "r").to(GetParam()),
                   w = random_normal({96}, "w").to(GetParam());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(add_norm, {x, residual}, {w});
    return Tensors{r.outputs[0], r.outputs[1], r.input_grads[0], r.input_grads[1],
                   r.weight_grads[0]};
  });
}

TEST(RmsNorm, GradientsEqualCentralDifferences) {
  const Tensors w = {random_normal({7}, "w")};
  expect_gradients_equal_differences(norm, {random_normal({2, 3, 7}, "x")}, w);
  expect_gradients_equal_differences(
      add_norm, {random_normal({3, 7}, "x"), random_normal({3, 7}, "residual")}, w);
}

TEST(RmsNorm, TheStoredResidualIsTheRoundedSum) {
  const at::Tensor x = random_normal({9, 40}, "x").to(at::kBFloat16),
                   residual = random_normal({9, 40}, "residual", 1, 50).to(at::kBFloat16);
  const OpResult got =
      run_op(add_norm, {x, residual}, {at::full({40}, 1.0, at::dtype(at::kBFloat16))});
  expect_close(got.outputs[1], x + residual, {});
}

TEST(RmsNorm, GradientOfTheResidualAlonePassesThrough) {
  const at::Tensor x = random_normal({4, 8}, "x").requires_grad_(),
                   residual = random_normal({4, 8}, "residual").requires_grad_();
  const Parameter w = parameter_of(random_normal({8}, "w"));
  const at::Tensor dy = random_normal({4, 8}, "dy");
  torch::autograd::backward({add_rms_norm(x, residual, w, kEps).residual}, {dy});
  expect_close(x.grad(), dy, {});
  expect_close(residual.grad(), dy, {});
  expect_close(w.grad, at::zeros({8}, at::kDouble), {});
}

TEST(RmsNorm, TwoBackwardsAddUp) {
  const Parameter w = parameter_of(random_normal({8}, "w"));
  const at::Tensor x = random_normal({4, 8}, "x").requires_grad_(),
                   dy = random_normal({4, 8}, "dy");
  torch::autograd::backward({rms_norm(x, w, kEps)}, {dy});
  const at::Tensor once = w.grad.clone();
  torch::autograd::backward({rms_norm(x, w, kEps)}, {dy});
  expect_close(w.grad, 2 * once, {.absolute = 1e-14});
}

TEST(RmsNorm, WorksWithoutAGradientBufferWhereNoGradientIsWanted) {
  Parameter w = parameter_of(random_normal({8}, "w"));
  w.grad = at::Tensor();
  at::NoGradGuard no_grad;
  const at::Tensor x = random_normal({4, 8}, "x");
  expect_close(add_rms_norm(x, x, w, kEps).y, rms_norm(2 * x, w, kEps), {});
}

TEST(RmsNorm, WrongArgumentsAreNamed) {
  const Parameter w = parameter_of(random_normal({8}, "w"));
  const at::Tensor x = random_normal({4, 9}, "x");
  expect_error([&] { rms_norm(x, w, kEps); }, "rms_norm: x has 9 channels, the weight 8");
  expect_error([&] { rms_norm(x.narrow(1, 0, 8).to(at::kFloat), w, kEps); },
               "rms_norm: x is Float, the weight Double");
  const Parameter half = parameter_of(random_normal({8}, "w").to(at::kHalf));
  expect_error([&] { rms_norm(x.narrow(1, 0, 8).to(at::kHalf), half, kEps); },
               "rms_norm: Half is not supported; use float64, float32 or bfloat16");
  expect_error([&] { add_rms_norm(x.narrow(1, 0, 8), x.narrow(0, 0, 3).narrow(1, 0, 8), w, kEps); },
               "add_rms_norm: x and residual differ in shape, dtype or device");
}

// The kernels take rows in turns; so many are more than one turn of a backward pass at this width.
int64_t several_turns(int64_t dim) {
  return dim <= 512 ? 4300 : dim <= 1024 ? 2200 : dim <= 2048 ? 900 : 600;
}

class RmsNormGpuTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  const at::Device gpu_ = pick_device("cuda");
};
INSTANTIATE_TEST_SUITE_P(Types, RmsNormGpuTest, ::testing::Values(at::kFloat, at::kBFloat16));

TEST_P(RmsNormGpuTest, EqualsTheReferenceAtAnyWidth) {
  for (const int64_t dim : {15, 64, 96, 128, 384, 512, 768, 1000, 2048, 4096, 4100, 8192})
    for (const int64_t rows : {int64_t{5}, several_turns(dim)})
      expect_equals_reference(norm, norm_reference, {random_normal({rows, dim}, "x")},
                              {1 + random_normal({dim}, "w", 1, 0.3)}, GetParam(),
                              2 * usual_tolerance(GetParam()), gpu_);
}

TEST_P(RmsNormGpuTest, WithResidualEqualsTheReferenceAtAnyWidth) {
  // bfloat16: the residual stream is rounded once more before the norm.
  for (const int64_t dim : {15, 64, 256, 768, 1000, 2048, 4096, 4100, 8192})
    for (const int64_t rows : {int64_t{5}, several_turns(dim)})
      expect_equals_reference(
          add_norm, add_norm_reference,
          {random_normal({rows, dim}, "x"), random_normal({rows, dim}, "residual")},
          {1 + random_normal({dim}, "w", 1, 0.3)}, GetParam(), 4 * usual_tolerance(GetParam()),
          gpu_);
}

TEST_P(RmsNormGpuTest, OneChannelEqualsTheCpu) {
  constexpr int64_t kRows = 4300;
  const at::Tensor x = random_normal({kRows, 1}, "x").to(GetParam()),
                   w = random_normal({1}, "w").to(GetParam());
  const OpResult cpu = run_op(norm, {x}, {w}), gpu = run_op(norm, {x.to(gpu_)}, {w.to(gpu_)});
  const double tolerance = usual_tolerance(GetParam());
  expect_close(gpu.outputs[0], cpu.outputs[0].detach().to(at::kDouble),
               {.relative = 2 * tolerance});
  // A sum of terms of size one with either sign.
  expect_close(gpu.weight_grads[0], cpu.weight_grads[0],
               {.absolute = 1e-5 * std::sqrt(static_cast<double>(kRows))});
  // A difference of numbers of size dy w / x, most of them equal.
  const at::Tensor size = x.to(at::kDouble).abs().clamp_min(std::sqrt(kEps));
  expect_close(gpu.input_grads[0].to(at::kCPU, at::kDouble) * size,
               cpu.input_grads[0].to(at::kDouble) * size,
               {.absolute = 2e-5, .relative = 2 * tolerance});
}

TEST_P(RmsNormGpuTest, TakesInputsThatBeginBetweenTwoVectors) {
  constexpr int64_t kRows = 600, kDim = 768;
  const auto view = [](const at::Tensor& flat) {
    return flat.narrow(0, 1, kRows * kDim).view({kRows, kDim});
  };
  const Tensors flat = {random_normal({kRows * kDim + 1}, "x"),
                        random_normal({kRows * kDim + 1}, "residual")};
  expect_equals_reference(
      [&](const Tensors& in, const std::vector<Parameter>& p) {
        return add_norm({view(in[0]), view(in[1])}, p);
      },
      [&](const Tensors& in, const Tensors& w) {
        return add_norm_reference({view(in[0]), view(in[1])}, w);
      },
      flat, {1 + random_normal({kDim}, "w", 1, 0.3)}, GetParam(), 4 * usual_tolerance(GetParam()),
      gpu_);
}

TEST_P(RmsNormGpuTest, TwoRunsAgreeToTheBit) {
  for (const int64_t dim : {64, 768, 1001, 2048, 8192}) {
    const int64_t rows = several_turns(dim);
    const at::Tensor x = random_normal({rows, dim}, "x").to(gpu_, GetParam()),
                     residual = random_normal({rows, dim}, "residual").to(gpu_, GetParam()),
                     w = random_normal({dim}, "w").to(gpu_, GetParam());
    const OpResult once = run_op(add_norm, {x, residual}, {w}),
                   again = run_op(add_norm, {x, residual}, {w});
    EXPECT_TRUE(at::equal(once.outputs[0], again.outputs[0])) << dim;
    EXPECT_TRUE(at::equal(once.outputs[1], again.outputs[1])) << dim;
    EXPECT_TRUE(at::equal(once.input_grads[0], again.input_grads[0])) << dim;
    EXPECT_TRUE(at::equal(once.weight_grads[0], again.weight_grads[0])) << dim;
  }
}

TEST_P(RmsNormGpuTest, AddsToTheGradientThatIsThere) {
  for (const int64_t dim : {96, 1001, 2048}) {
    const Parameter w = parameter_of(random_normal({dim}, "w").to(gpu_, GetParam()));
    const at::Tensor x = random_normal({700, dim}, "x").to(gpu_, GetParam()).requires_grad_(),
                     dy = random_normal({700, dim}, "dy").to(gpu_, GetParam());
    torch::autograd::backward({rms_norm(x, w, kEps)}, {dy});
    const at::Tensor once = w.grad.clone();
    EXPECT_GT(once.abs().max().item<double>(), 1);
    torch::autograd::backward({rms_norm(x, w, kEps)}, {dy});
    EXPECT_TRUE(at::equal(w.grad, 2 * once)) << dim;  // doubling does not round
  }
}

TEST_P(RmsNormGpuTest, NoRowsAreNoWork) {
  const OpResult got = run_op(norm, {at::zeros({0, 64}, at::dtype(GetParam()).device(gpu_))},
                              {random_normal({64}, "w").to(gpu_, GetParam())});
  EXPECT_EQ(got.outputs[0].numel(), 0);
  expect_close(got.weight_grads[0], at::zeros({64}), {});
}

TEST(RmsNormGpu, Float64TakesTheReference) {
  expect_equals_reference(add_norm, add_norm_reference,
                          {random_normal({7, 33}, "x"), random_normal({7, 33}, "residual")},
                          {random_normal({33}, "w")}, at::kDouble, usual_tolerance(at::kDouble),
                          pick_device("cuda"));
}

TEST(RmsNormGpu, GradientOfTheResidualAlonePassesThrough) {
  const at::Device gpu = pick_device("cuda");
  const at::Tensor x = random_normal({4, 8}, "x").to(gpu, at::kFloat).requires_grad_(),
                   residual = random_normal({4, 8}, "residual").to(gpu, at::kFloat);
  const Parameter w = parameter_of(random_normal({8}, "w").to(gpu, at::kFloat));
  const at::Tensor dy = random_normal({4, 8}, "dy").to(gpu, at::kFloat);
  torch::autograd::backward({add_rms_norm(x, residual, w, kEps).residual}, {dy});
  expect_close(x.grad(), dy, {});
  expect_close(w.grad, at::zeros({8}), {});
}

TEST(RmsNormGpu, IndicesPassTwoToThe31) {  // 4.3 GB a tensor
  const auto options = at::dtype(at::kBFloat16).device(pick_device("cuda"));
  constexpr int64_t kDim = 2048, kRows = (int64_t{1} << 31) / kDim + 8;
  const Parameter w = parameter_of(at::full({kDim}, 0.5, options));
  const at::Tensor x = at::randn({kRows, kDim}, options).requires_grad_(),
                   dy = at::randn({kRows, kDim}, options);
  const at::Tensor last_x = x.detach().narrow(0, kRows - 8, 8).clone().requires_grad_(),
                   last_dy = dy.narrow(0, kRows - 8, 8).clone();
  const at::Tensor y = rms_norm(x, w, kEps), last_y = rms_norm(last_x, w, kEps);
  EXPECT_TRUE(at::equal(y.narrow(0, kRows - 8, 8), last_y));
  torch::autograd::backward({y, last_y}, {dy, last_dy});
  EXPECT_TRUE(at::equal(x.grad().narrow(0, kRows - 8, 8), last_x.grad()));
}

TEST(RmsNormGpu, AWeightElsewhereIsNamed) {
  const at::Device gpu = pick_device("cuda");
  const Parameter w = parameter_of(random_normal({8}, "w").to(at::kFloat));
  const at::Tensor x = random_normal({4, 8}, "x").to(gpu, at::kFloat);
  expect_error([&] { rms_norm(x, w, kEps); }, "rms_norm: x is on cuda:0, the weight on cpu");
}

}  // namespace
}  // namespace ceiling
