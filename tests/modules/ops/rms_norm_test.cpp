#include "modules/ops/rms_norm/rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

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
               "add_rms_norm: x and residual differ in shape or dtype");
}

TEST(RmsNormGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    expect_equals_reference(norm, norm_reference, {random_normal({70, 256}, "x")},
                            {random_normal({256}, "w")}, dtype, 2 * usual_tolerance(dtype), gpu);
    expect_equals_reference(add_norm, add_norm_reference,
                            {random_normal({70, 256}, "x"), random_normal({70, 256}, "residual")},
                            {random_normal({256}, "w")}, dtype, 4 * usual_tolerance(dtype), gpu);
  }
}

}  // namespace
}  // namespace ceiling
