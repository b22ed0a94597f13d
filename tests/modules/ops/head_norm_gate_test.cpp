#include "modules/ops/head_norm_gate/head_norm_gate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <tuple>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

constexpr double kEps = 1e-6;

Op op(Activation activation) {
  return [=](const Tensors& in, const std::vector<Parameter>& p) -> Tensors {
    return {head_norm_gate(in[0], in[1], p.empty() ? nullptr : &p[0], kEps, activation)};
  };
}
Reference reference(Activation activation) {
  return [=](const Tensors& in, const Tensors& w) -> Tensors {
    return {
        head_norm_gate_reference(in[0], in[1], w.empty() ? at::Tensor() : w[0], kEps, activation)};
  };
}

class HeadNormGateTest : public ::testing::TestWithParam<std::tuple<at::ScalarType, Activation>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  Activation activation() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, HeadNormGateTest,
                         ::testing::Combine(::testing::Values(at::kDouble, at::kFloat,
                                                              at::kBFloat16),
                                            ::testing::Values(Activation::kSilu, Activation::kGelu,
                                                              Activation::kGeluTanh)));

TEST_P(HeadNormGateTest, EqualsTheReferenceWithAndWithoutWeight) {
  for (const int64_t dim : {3, 15, 33, 64}) {
    const Tensors in = {random_normal({2, 37, 3, dim}, "o"),
                        random_normal({2, 37, 3 * dim}, "gate", 1, 2)};
    for (const Tensors& w : {Tensors{}, Tensors{1 + random_normal({dim}, "w", 1, 0.3)}})
      expect_equals_reference(op(activation()), reference(activation()), in, w, dtype(),
                              usual_tolerance(dtype()));
  }
}

TEST_P(HeadNormGateTest, TakesOneTokenAndAGateInsideAFusedProjection) {
  for (const auto& [batch, seq_len] : {std::pair<int64_t, int64_t>{3, 1}, {1, 1}, {1, 6}, {2, 6}}) {
    const at::Tensor fused = random_normal({batch, seq_len, 50}, "fused").to(dtype());
    expect_equals_reference(op(activation()), reference(activation()),
                            {random_normal({batch, seq_len, 2, 8}, "o"), fused.narrow(2, 21, 16)},
                            {1 + random_normal({8}, "w", 1, 0.3)}, dtype(),
                            usual_tolerance(dtype()));
  }
}

TEST_P(HeadNormGateTest, TakesStridedInputs) {
  expect_equals_reference(op(activation()), reference(activation()),
                          {strided_copy(random_normal({2, 3, 2, 8}, "o").to(dtype())),
                           strided_copy(random_normal({2, 3, 16}, "gate").to(dtype()))},
                          {1 + random_normal({8}, "w", 1, 0.3)}, dtype(), usual_tolerance(dtype()));
}

TEST_P(HeadNormGateTest, SaturatedGatesAreExactlyOpenOrShut) {
  const at::Tensor gate =
      at::cat({at::full({1, 1, 8}, 1e4, at::kDouble), at::full({1, 1, 8}, -1e4, at::kDouble)}, 2);
  const OpResult got = run_op(op(activation()),
                              {random_normal({1, 1, 2, 8}, "o").to(dtype()), gate.to(dtype())}, {});
  EXPECT_TRUE(at::isfinite(got.outputs[0]).all().item<bool>());
  for (const at::Tensor& grad : got.input_grads) EXPECT_TRUE(at::isfinite(grad).all().item<bool>());
  expect_close(got.outputs[0].narrow(2, 8, 8), at::full({1, 1, 8}, 0.0), {.absolute = 1e-30});
  expect_close(got.input_grads[0].select(2, 1), at::full({1, 1, 8}, 0.0), {.absolute = 1e-30});
}

TEST_P(HeadNormGateTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor o = random_normal({3, 101, 2, 32}, "o").to(dtype()),
                   gate = random_normal({3, 101, 64}, "gate").to(dtype()),
                   w = random_normal({32}, "w").to(dtype());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(op(activation()), {o, gate}, {w});
    return Tensors{r.outputs[0], r.input_grads[0], r.input_grads[1], r.weight_grads[0]};
  });
}

TEST(HeadNormGate, GradientsEqualCentralDifferences) {
  for (const Activation a : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh})
    for (const Tensors& w : {Tensors{}, Tensors{random_normal({5}, "w")}})
      expect_gradients_equal_differences(
          op(a), {random_normal({1, 2, 2, 5}, "o"), random_normal({1, 2, 10}, "gate")}, w);
}

TEST(HeadNormGate, WrongArgumentsAreNamed) {
  const at::Tensor o = random_normal({1, 2, 2, 4}, "o"), gate = random_normal({1, 2, 8}, "gate");
  const Parameter w = parameter_of(random_normal({5}, "w"));
  const Activation silu = Activation::kSilu;
  expect_error([&] { head_norm_gate(o, gate.narrow(2, 0, 7), nullptr, kEps, silu); },
               "head_norm_gate: o must be [B, T, H, V] and gate [B, T, H V], of equal sizes");
  expect_error([&] { head_norm_gate(o, gate, &w, kEps, silu); },
               "head_norm_gate: the weight has 5 channels, a head 4");
  expect_error([&] { head_norm_gate(o, gate.to(at::kFloat), nullptr, kEps, silu); },
               "head_norm_gate: o is Double, the gate Float");
  const Parameter narrow = parameter_of(random_normal({4}, "w").to(at::kFloat));
  expect_error([&] { head_norm_gate(o, gate, &narrow, kEps, silu); },
               "head_norm_gate: o is Double, the weight Float");
}

TEST(HeadNormGateGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    expect_equals_reference(
        op(Activation::kSilu), reference(Activation::kSilu),
        {random_normal({2, 37, 3, 64}, "o"), random_normal({2, 37, 192}, "gate")},
        {random_normal({64}, "w")}, dtype, 2 * usual_tolerance(dtype), gpu);
}

}  // namespace
}  // namespace ceiling
