#include "modules/ops/block_linear/block_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/einsum.h>
#include <gtest/gtest.h>

#include "modules/ops/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

Tensors product(const Tensors& in, const std::vector<Parameter>& p) {
  return {block_linear(in[0], p[0])};
}
Tensors reference(const Tensors& in, const Tensors& w) {
  const at::Tensor blocks = in[0].unflatten(-1, {w[0].size(0), w[0].size(1)});
  return {at::einsum("bthi,hij->bthj", {blocks, w[0]}).flatten(2)};
}

class BlockLinearTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, BlockLinearTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(BlockLinearTest, EqualsTheReference) {
  for (const auto& [blocks, in, out] :
       {std::array<int64_t, 3>{1, 5, 3}, {3, 4, 4}, {4, 16, 24}, {6, 1, 2}})
    for (const int64_t seq_len : {1, 7})
      expect_equals_reference(product, reference, {random_normal({2, seq_len, blocks * in}, "x")},
                              {random_normal({blocks, in, out}, "w")}, GetParam(),
                              usual_tolerance(GetParam()));
}

TEST_P(BlockLinearTest, TakesStridedInputs) {
  expect_equals_reference(product, reference,
                          {strided_copy(random_normal({2, 5, 12}, "x").to(GetParam()))},
                          {random_normal({3, 4, 4}, "w")}, GetParam(), usual_tolerance(GetParam()));
}

TEST(BlockLinear, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences(product, {random_normal({2, 2, 6}, "x")},
                                     {random_normal({3, 2, 3}, "w")});
}

TEST(BlockLinear, WrongArgumentsAreNamed) {
  const Parameter w = parameter_of(random_normal({3, 2, 2}, "w"), "gate.weight"),
                  flat = parameter_of(random_normal({6, 2}, "w"), "flat");
  const at::Tensor x = random_normal({2, 6}, "x");
  expect_error([&] { block_linear(x, flat); }, "block_linear: flat must be [blocks, in, out]");
  expect_error([&] { block_linear(x.narrow(1, 0, 5), w); },
               "block_linear: x has 5 channels, gate.weight takes 6");
  expect_error([&] { block_linear(x.to(at::kFloat), w); },
               "block_linear: x is Float, gate.weight is Double");
}

TEST(BlockLinearGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const auto& [blocks, in] : {std::pair<int64_t, int64_t>{4, 64}, {3, 5}})
      expect_equals_reference(product, reference, {random_normal({3, 33, blocks * in}, "x")},
                              {random_normal({blocks, in, in}, "w")}, dtype,
                              2 * usual_tolerance(dtype), gpu);
}

}  // namespace
}  // namespace ceiling
