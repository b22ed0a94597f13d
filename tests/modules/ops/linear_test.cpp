#include "modules/ops/linear/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "modules/ops/device.h"
#include "modules/ops/linear/gemm.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

Tensors product(const Tensors& in, const std::vector<Parameter>& p) {
  return {linear(in[0], p[0])};
}
Tensors product_reference(const Tensors& in, const Tensors& w) {
  return {at::matmul(in[0], w[0].t())};
}
Tensors sum(const Tensors& in, const std::vector<Parameter>& p) {
  return {linear_add(in[0], p[0], in[1])};
}
Tensors sum_reference(const Tensors& in, const Tensors& w) {
  return {in[1] + at::matmul(in[0], w[0].t())};
}

Tensors biased(const Tensors& in, const std::vector<Parameter>& p) {
  return {linear(in[0], p[0], &p[1])};
}
Tensors biased_reference(const Tensors& in, const Tensors& w) {
  return {at::matmul(in[0], w[0].t()) + w[1]};
}
Tensors biased_sum(const Tensors& in, const std::vector<Parameter>& p) {
  return {linear_add(in[0], p[0], in[1], &p[1])};
}
Tensors biased_sum_reference(const Tensors& in, const Tensors& w) {
  return {in[1] + at::matmul(in[0], w[0].t()) + w[1]};
}

class LinearTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, LinearTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(LinearTest, EqualsTheReference) {
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{1, 1}, {17, 5}, {64, 96}})
    for (const int64_t seq_len : {1, 7, 32}) {
      const Tensors w = {random_normal({out, in}, "w")};
      const at::Tensor x = random_normal({2, seq_len, in}, "x"),
                       residual = random_normal({2, seq_len, out}, "residual");
      expect_equals_reference(product, product_reference, {x}, w, GetParam(),
                              usual_tolerance(GetParam()));
      expect_equals_reference(sum, sum_reference, {x, residual}, w, GetParam(),
                              2 * usual_tolerance(GetParam()));
      const Tensors both = {w[0], random_normal({out}, "bias")};
      expect_equals_reference(biased, biased_reference, {x}, both, GetParam(),
                              usual_tolerance(GetParam()));
      // bfloat16: rounded before the bias is added, and after.
      expect_equals_reference(biased_sum, biased_sum_reference, {x, residual}, both, GetParam(),
                              2 * usual_tolerance(GetParam()));
    }
}

TEST_P(LinearTest, TakesStridedInputsAndExpandedGradients) {
  expect_equals_reference(sum, sum_reference,
                          {strided_copy(random_normal({2, 3, 8}, "x").to(GetParam())),
                           strided_copy(random_normal({2, 3, 6}, "residual").to(GetParam()))},
                          {random_normal({6, 8}, "w")}, GetParam(),
                          2 * usual_tolerance(GetParam()));
  const Op summed = [](const Tensors& in, const std::vector<Parameter>& p) -> Tensors {
    return {linear(in[0], p[0]).to(at::kDouble).sum()};
  };
  const OpResult got = run_op(summed, {random_normal({2, 3, 8}, "x").to(GetParam())},
                              {random_normal({6, 8}, "w").to(GetParam())});
  EXPECT_TRUE(got.input_grads[0].defined());
}

TEST_P(LinearTest, TwoBackwardsAddUp) {
  const Parameter w = parameter_of(random_normal({6, 8}, "w").to(GetParam()));
  const at::Tensor x = random_normal({9, 8}, "x").to(GetParam()).requires_grad_(),
                   dy = random_normal({9, 6}, "dy").to(GetParam());
  torch::autograd::backward({linear(x, w)}, {dy});
  const at::Tensor once = w.grad.clone();
  torch::autograd::backward({linear(x, w)}, {dy});
  expect_close(w.grad, 2 * once, {.absolute = 1e-6, .relative = 1e-6});
}

TEST_P(LinearTest, TwoRunsAreEqualBitForBit) {
  const at::Tensor x = random_normal({301, 64}, "x").to(GetParam()),
                   w = random_normal({96, 64}, "w").to(GetParam());
  const OpResult a = run_op(product, {x}, {w}), b = run_op(product, {x}, {w});
  expect_close(b.outputs[0], a.outputs[0], {});
  expect_close(b.input_grads[0], a.input_grads[0], {});
  expect_close(b.weight_grads[0], a.weight_grads[0], {});
}

TEST_P(LinearTest, WorksWithoutAGradientBufferWhereNoGradientIsWanted) {
  Parameter w = parameter_of(random_normal({6, 8}, "w").to(GetParam()));
  w.grad = at::Tensor();
  at::NoGradGuard no_grad;
  const at::Tensor x = random_normal({9, 8}, "x").to(GetParam());
  EXPECT_EQ(linear(x, w).sizes(), at::IntArrayRef({9, 6}));
}

TEST(Linear, GradientsEqualCentralDifferences) {
  const Tensors w = {random_normal({3, 4}, "w")};
  expect_gradients_equal_differences(product, {random_normal({2, 2, 4}, "x")}, w);
  expect_gradients_equal_differences(
      sum, {random_normal({2, 2, 4}, "x"), random_normal({2, 2, 3}, "residual")}, w);
  expect_gradients_equal_differences(
      biased_sum, {random_normal({2, 2, 4}, "x"), random_normal({2, 2, 3}, "residual")},
      {w[0], random_normal({3}, "bias")});
}

TEST(Linear, GradientsOfOneBatchInTwoPiecesAddUpInFloat) {
  // bfloat16 activations: the buffer is float32, so a small contribution is not lost beside a
  // large.
  const Parameter w = parameter_of(random_normal({4, 8}, "w").to(at::kBFloat16));
  w.grad.fill_(1024);
  const at::Tensor x = random_normal({16, 8}, "x").to(at::kBFloat16),
                   dy = random_normal({16, 4}, "dy").to(at::kBFloat16);
  torch::autograd::backward({linear(x, w)}, {dy});
  const at::Tensor want = at::mm(dy.to(at::kDouble).t(), x.to(at::kDouble));
  expect_close(w.grad - 1024, want, {.absolute = 0.02, .relative = 0x1p-8});
}

// Into memory of its own, rows of another's, and onto what is there; of transposed factors, too.
void expect_products(at::Device device, double tolerance) {
  for (const auto& [m, n, k] :
       {std::array<int64_t, 3>{1, 1, 1}, {5, 7, 3}, {64, 32, 48}, {130, 72, 264}})
    for (const bool a_turned : {false, true})
      for (const bool b_turned : {false, true})
        for (const at::ScalarType out_type : {at::kBFloat16, at::kFloat})
          for (const int adds : {0, 1, 2}) {
            SCOPED_TRACE(fmt::format("{} x {} x {} {}{} {} adds {}", m, n, k, a_turned, b_turned,
                                     c10::toString(out_type), adds));
            const auto factor = [&](int64_t rows, int64_t columns, bool turned, const char* name) {
              const at::Tensor x =
                  random_normal({turned ? columns : rows, turned ? rows : columns}, name)
                      .to(device, at::kBFloat16);
              return turned ? x.t() : x;
            };
            const at::Tensor a = factor(m, k, a_turned, "a"), b = factor(k, n, b_turned, "b");
            const at::Tensor before = random_normal({m, n}, "before").to(device, out_type);
            const at::Tensor wide_rows = at::full({m, n + 16}, 7, before.options());
            const at::Tensor out = wide_rows.narrow(1, 8, n);
            if (adds == 2) out.copy_(before);
            gemm_into(out, a, b, adds == 0 ? at::Tensor() : adds == 1 ? before : out);
            at::Tensor want = at::mm(a.cpu().to(at::kDouble), b.cpu().to(at::kDouble));
            if (adds > 0) want = want + before.cpu().to(at::kDouble);
            expect_close(
                out.cpu(), want,
                {.absolute = tolerance * std::sqrt(static_cast<double>(k)), .relative = tolerance});
            EXPECT_TRUE((wide_rows.narrow(1, 0, 8) == 7).all().item<bool>());
            EXPECT_TRUE((wide_rows.narrow(1, n + 8, 8) == 7).all().item<bool>());
          }
}

TEST(Gemm, EqualsTheProductInFloat64) { expect_products(at::kCPU, 0x1p-7); }

TEST(Linear, WrongArgumentsAreNamed) {
  const Parameter w = parameter_of(random_normal({3, 4}, "w"), "layers.0.out.weight");
  const at::Tensor x = random_normal({2, 5}, "x");
  expect_error([&] { linear(x, w); }, "linear: x has 5 channels, layers.0.out.weight takes 4");
  expect_error([&] { linear(x.narrow(1, 0, 4).to(at::kFloat), w); },
               "linear: x is Float, layers.0.out.weight is Double");
  expect_error([&] { linear_add(x.narrow(1, 0, 4), w, x); },
               "linear: the residual must have the shape and dtype of the product with "
               "layers.0.out.weight");
  const Parameter bias = parameter_of(random_normal({2}, "bias"), "layers.0.out.bias");
  expect_error([&] { linear(x.narrow(1, 0, 4), w, &bias); },
               "linear: layers.0.out.bias must be Double [3]");
}

TEST(LinearGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  const Tensors w = {random_normal({96, 64}, "w")};
  const at::Tensor x = random_normal({4, 32, 64}, "x"),
                   residual = random_normal({4, 32, 96}, "residual");
  // TF32 stays off: float32 products are float32.
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    expect_equals_reference(product, product_reference, {x}, w, dtype, 2 * usual_tolerance(dtype),
                            gpu);
    expect_equals_reference(sum, sum_reference, {x, residual}, w, dtype, 2 * usual_tolerance(dtype),
                            gpu);
    expect_equals_reference(biased_sum, biased_sum_reference, {x, residual},
                            {w[0], random_normal({96}, "bias")}, dtype, 3 * usual_tolerance(dtype),
                            gpu);
  }
}

TEST(GemmGpu, EqualsTheProductInFloat64) { expect_products(pick_device("cuda"), 0x1p-7); }

TEST(GemmGpu, MeasuringChangesNoBitAndAddsOnce) {
  const at::Device gpu = pick_device("cuda");
  const at::Tensor x = random_normal({4096, 256}, "x").to(gpu, at::kBFloat16),
                   dy = random_normal({4096, 384}, "dy").to(gpu, at::kBFloat16),
                   before = random_normal({384, 256}, "before").to(gpu, at::kFloat);
  const at::Tensor guessed = before.clone(), measured = before.clone(), again = before.clone();
  gemm_into(guessed, dy.t(), x, guessed);
  gemm_into(measured, dy.t(), x, measured, Recurs::kYes);
  gemm_into(again, dy.t(), x, again, Recurs::kYes);
  EXPECT_TRUE(at::equal(measured, guessed));
  EXPECT_TRUE(at::equal(again, guessed));
  EXPECT_GT(n_gemm_candidates(guessed, dy.t(), x, guessed), 1);
}

TEST(LinearGpu, WeightGradientsAreAccumulatedInFloat) {
  const at::Device gpu = pick_device("cuda");
  const at::Tensor x = random_normal({256, 64}, "x").to(gpu, at::kBFloat16),
                   dy = random_normal({256, 96}, "dy").to(gpu, at::kBFloat16);
  Parameter w = parameter_of(random_normal({96, 64}, "w").to(gpu, at::kBFloat16));
  w.grad.fill_(1024);
  torch::autograd::backward({linear(x, w)}, {dy});
  const at::Tensor want =
      at::mm(dy.to(at::kCPU, at::kDouble).t(), x.to(at::kCPU, at::kDouble)) + 1024;
  // float32 next to 1024 is exact to 6e-5; a bfloat16 product would miss by 0.06.
  expect_close(w.grad, want, {.absolute = 5e-4});
}

}  // namespace
}  // namespace ceiling
