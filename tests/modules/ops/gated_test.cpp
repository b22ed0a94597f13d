#include "modules/ops/gated/gated.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linspace.h>
#include <gtest/gtest.h>

#include <tuple>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

Op op(Activation activation) {
  return [=](const Tensors& in, const std::vector<Parameter>&) -> Tensors {
    return {gated(in[0], activation)};
  };
}
Reference reference(Activation activation) {
  return [=](const Tensors& in, const Tensors&) -> Tensors {
    return {gated_reference(in[0], activation)};
  };
}

// Gate and up as two tensors.
Op pair(Activation activation) {
  return [=](const Tensors& in, const std::vector<Parameter>&) -> Tensors {
    return {gated(in[0], in[1], activation)};
  };
}
Reference pair_reference(Activation activation) {
  return [=](const Tensors& in, const Tensors&) -> Tensors {
    return {gated_reference(at::cat({in[0], in[1]}, -1), activation)};
  };
}

class GatedTest : public ::testing::TestWithParam<std::tuple<at::ScalarType, Activation>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  Activation activation() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, GatedTest,
                         ::testing::Combine(::testing::Values(at::kDouble, at::kFloat,
                                                              at::kBFloat16),
                                            ::testing::Values(Activation::kSilu, Activation::kGelu,
                                                              Activation::kGeluTanh)));

TEST_P(GatedTest, EqualsTheReferenceAtAnyWidth) {
  for (const int64_t width : {1, 15, 16, 33, 768})
    expect_equals_reference(op(activation()), reference(activation()),
                            {random_normal({2, 5, 2 * width}, "gate_up", 1, 2)}, {}, dtype(),
                            usual_tolerance(dtype()));
}

TEST_P(GatedTest, TakesStridedInputs) {
  expect_equals_reference(op(activation()), reference(activation()),
                          {strided_copy(random_normal({2, 5, 34}, "gate_up").to(dtype()))}, {},
                          dtype(), usual_tolerance(dtype()));
}

TEST_P(GatedTest, TwoTensorsEqualTheReference) {
  for (const int64_t width : {1, 33})
    expect_equals_reference(pair(activation()), pair_reference(activation()),
                            {random_normal({2, 5, width}, "gate", 1, 2),
                             strided_copy(random_normal({2, 5, width}, "up").to(dtype()))},
                            {}, dtype(), usual_tolerance(dtype()));
}

TEST_P(GatedTest, HoldsOverTheWholeRangeOfTheGate) {
  const int64_t n = 4001;
  const at::Tensor gate = at::linspace(-20, 20, n, at::kDouble);
  expect_equals_reference(op(activation()), reference(activation()),
                          {at::cat({gate, at::full({n}, 1.0, at::kDouble)})}, {}, dtype(),
                          usual_tolerance(dtype()));
}

TEST_P(GatedTest, SaturatedGatesAreExactlyOpenOrShut) {
  const at::Tensor gate =
      at::cat({at::full({16}, 1e4, at::kDouble), at::full({16}, -1e4, at::kDouble),
               at::full({32}, 1.0, at::kDouble)});
  const OpResult got = run_op(op(activation()), {gate.to(dtype())}, {});
  const at::Tensor want =
      at::cat({at::full({16}, 1e4, at::kDouble), at::full({16}, 0.0, at::kDouble)});
  // Shut to below what fp32's exp can still tell from zero.
  expect_close(got.outputs[0], want.to(dtype()), {.absolute = 1e-30});
  EXPECT_TRUE(at::isfinite(got.input_grads[0]).all().item<bool>());
}

TEST_P(GatedTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor gate_up = random_normal({301, 400}, "gate_up").to(dtype());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(op(activation()), {gate_up}, {});
    return Tensors{r.outputs[0], r.input_grads[0]};
  });
}

TEST(Gated, GradientsEqualCentralDifferences) {
  for (const Activation a : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh})
    expect_gradients_equal_differences(op(a), {random_normal({3, 10}, "gate_up")}, {});
}

TEST(Gated, OddChannelsAreRefused) {
  expect_error(
      [] {
        gated(random_normal({3, 7}, "x"), Activation::kSilu);
      },
      "gated: the last dimension must hold gate and up, an even number of channels, got 7");
  expect_error(
      [] {
        gated(random_normal({3, 8}, "x").to(at::kHalf), Activation::kSilu);
      },
      "gated: Half is not supported; use float64, float32 or bfloat16");
}

TEST(GatedGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const Activation a : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh})
      for (const int64_t width : {1, 12, 256, 1000, 2049}) {  // whole 16-byte pieces and others
        expect_equals_reference(op(a), reference(a), {random_normal({70, 2 * width}, "gate_up")},
                                {}, dtype, 2 * usual_tolerance(dtype), gpu);
        expect_equals_reference(
            pair(a), pair_reference(a),
            {random_normal({70, width}, "gate"), random_normal({70, width}, "up")}, {}, dtype,
            2 * usual_tolerance(dtype), gpu);
      }
}

TEST(GatedGpu, TakesRowsThatBeginAtAnyElement) {
  const at::Device gpu = pick_device("cuda");
  const auto rows = [](const at::Tensor& flat) {
    return flat.narrow(0, 1, 70 * 32).view({70, 32});
  };
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    expect_equals_reference(
        [&](const Tensors& in, const std::vector<Parameter>&) -> Tensors {
          return {gated(rows(in[0]), Activation::kSilu)};
        },
        [&](const Tensors& in, const Tensors&) -> Tensors {
          return {gated_reference(rows(in[0]), Activation::kSilu)};
        },
        {random_normal({1 + 70 * 32}, "gate_up")}, {}, dtype, 2 * usual_tolerance(dtype), gpu);
}

TEST(GatedGpu, HoldsOverTheWholeRangeOfTheGate) {
  const at::Device gpu = pick_device("cuda");
  const int64_t n = 4000;
  const at::Tensor gate = at::linspace(-20, 20, n, at::kDouble);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const Activation a : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh})
      expect_equals_reference(op(a), reference(a),
                              {at::cat({gate, at::full({n}, 1.0, at::kDouble)})}, {}, dtype,
                              2 * usual_tolerance(dtype), gpu);
}

TEST(GatedGpu, SaturatedGatesAreExactlyOpenOrShut) {
  const at::Device gpu = pick_device("cuda");
  const at::Tensor gate =
      at::cat({at::full({16}, 1e4, at::kFloat), at::full({16}, -1e4, at::kFloat)});
  for (const Activation a : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
    const OpResult got =
        run_op(op(a), {at::cat({gate, at::full({32}, 1.0, at::kFloat)}).to(gpu)}, {});
    expect_close(got.outputs[0].cpu(), gate.relu(), {.absolute = 1e-30});
    EXPECT_TRUE(at::isfinite(got.input_grads[0]).all().item<bool>());
  }
}

}  // namespace
}  // namespace ceiling
