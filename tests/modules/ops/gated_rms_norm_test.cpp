#include "modules/ops/gated_rms_norm/gated_rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <gtest/gtest.h>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

constexpr double kEps = 1e-5;

Op op(int64_t groups) {
  return [=](const Tensors& in, const std::vector<Parameter>& w) -> Tensors {
    return {gated_rms_norm(in[0], in[1], w[0], groups, kEps)};
  };
}
Reference reference(int64_t groups) {
  return [=](const Tensors& in, const Tensors& w) -> Tensors {
    return {gated_rms_norm_reference(in[0], in[1], w[0], groups, kEps)};
  };
}

class GatedRmsNormTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  static at::Tensor weight(int64_t dim) { return 1 + random_normal({dim}, "w", 1, 0.3); }
};
INSTANTIATE_TEST_SUITE_P(Types, GatedRmsNormTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(GatedRmsNormTest, EqualsTheReferenceForAnyNumberOfGroups) {
  for (const auto& [dim, groups] :
       {std::pair<int64_t, int64_t>{3, 1}, {33, 3}, {64, 1}, {96, 2}, {30, 5}})
    expect_equals_reference(
        op(groups), reference(groups),
        {random_normal({2, 37, dim}, "x"), random_normal({2, 37, dim}, "gate", 1, 2)},
        {weight(dim)}, GetParam(), usual_tolerance(GetParam()));
}

TEST_P(GatedRmsNormTest, TakesOneTokenAndAGateInsideAFusedProjection) {
  for (const auto& [batch, seq_len] : {std::pair<int64_t, int64_t>{3, 1}, {1, 1}, {1, 6}, {2, 6}})
    expect_equals_reference(
        op(2), reference(2),
        {random_normal({batch, seq_len, 16}, "x"),
         random_normal({batch, seq_len, 50}, "fused").to(GetParam()).narrow(2, 21, 16)},
        {weight(16)}, GetParam(), usual_tolerance(GetParam()));
}

TEST_P(GatedRmsNormTest, TakesStridedInputs) {
  expect_equals_reference(op(1), reference(1),
                          {strided_copy(random_normal({2, 3, 16}, "x").to(GetParam())),
                           strided_copy(random_normal({2, 3, 16}, "gate").to(GetParam()))},
                          {weight(16)}, GetParam(), usual_tolerance(GetParam()));
}

TEST_P(GatedRmsNormTest, SaturatedGatesAreFinite) {
  const at::Tensor gate =
      at::cat({at::full({1, 2, 8}, 1e4, at::kDouble), at::full({1, 2, 8}, -1e4, at::kDouble)}, 2);
  const OpResult got =
      run_op(op(2), {random_normal({1, 2, 16}, "x").to(GetParam()), gate.to(GetParam())},
             {weight(16).to(GetParam())});
  EXPECT_TRUE(at::isfinite(got.outputs[0]).all().item<bool>());
  for (const at::Tensor& grad : got.input_grads) EXPECT_TRUE(at::isfinite(grad).all().item<bool>());
  expect_close(got.outputs[0].narrow(2, 8, 8), at::full({1, 2, 8}, 0.0), {.absolute = 1e-30});
}

TEST_P(GatedRmsNormTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor x = random_normal({3, 101, 64}, "x").to(GetParam()),
                   gate = random_normal({3, 101, 64}, "gate").to(GetParam()),
                   w = weight(64).to(GetParam());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(op(2), {x, gate}, {w});
    return Tensors{r.outputs[0], r.input_grads[0], r.input_grads[1], r.weight_grads[0]};
  });
}

TEST(GatedRmsNorm, GradientsEqualCentralDifferences) {
  for (const int64_t groups : {1, 2})
    expect_gradients_equal_differences(
        op(groups), {random_normal({1, 3, 6}, "x"), random_normal({1, 3, 6}, "gate")},
        {random_normal({6}, "w")});
}

TEST(GatedRmsNorm, WrongArgumentsAreNamed) {
  const at::Tensor x = random_normal({1, 2, 8}, "x");
  const Parameter w = parameter_of(random_normal({8}, "w"));
  const Parameter narrow = parameter_of(random_normal({5}, "w"));
  const Parameter single = parameter_of(random_normal({8}, "w").to(at::kFloat));
  expect_error([&] { gated_rms_norm(x, x.narrow(2, 0, 7), w, 1, kEps); },
               "gated_rms_norm: x and the gate must be [B, T, E], of equal sizes");
  expect_error([&] { gated_rms_norm(x, x, narrow, 1, kEps); },
               "gated_rms_norm: x has 8 channels, the weight 5");
  expect_error([&] { gated_rms_norm(x, x, w, 3, kEps); },
               "gated_rms_norm: 3 groups do not divide 8 channels");
  expect_error([&] { gated_rms_norm(x, x, single, 1, kEps); },
               "gated_rms_norm: x, gate and weight differ in dtype");
}

class GatedRmsNormGpuTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, GatedRmsNormGpuTest, ::testing::Values(at::kFloat, at::kBFloat16));

TEST_P(GatedRmsNormGpuTest, EqualsTheReferenceAtAnyWidth) {
  for (const auto& [dim, groups] :
       {std::pair<int64_t, int64_t>{15, 1}, {64, 2}, {1536, 1}, {4096, 8}, {1001, 1}})
    for (const int64_t n_tokens : {2, 700})
      expect_equals_reference(
          op(groups), reference(groups),
          {random_normal({1, n_tokens, dim}, "x"), random_normal({1, n_tokens, dim}, "gate", 1, 2)},
          {1 + random_normal({dim}, "w", 1, 0.3)}, GetParam(), 2 * usual_tolerance(GetParam()),
          pick_device("cuda"));
}

}  // namespace
}  // namespace ceiling
