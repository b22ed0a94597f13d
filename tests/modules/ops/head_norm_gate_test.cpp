#include "modules/ops/head_norm_gate/head_norm_gate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
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

// The kernels take heads in turns; with three heads so many tokens are more than one turn of a
// backward pass at this width.
int64_t several_turns(int64_t dim) {
  return dim <= 64     ? 5700
         : dim <= 128  ? 2900
         : dim <= 256  ? 1450
         : dim <= 512  ? 720
         : dim <= 1024 ? 370
                       : 190;
}

class HeadNormGateGpuTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  // [1, n_tokens, 3, dim] and its gate, with and without a weight.
  void expect_equal(int64_t n_tokens, int64_t dim, Activation activation) const {
    const Tensors in = {random_normal({1, n_tokens, 3, dim}, "o"),
                        random_normal({1, n_tokens, 3 * dim}, "gate", 1, 2)};
    for (const Tensors& w : {Tensors{}, Tensors{1 + random_normal({dim}, "w", 1, 0.3)}})
      expect_equals_reference(op(activation), reference(activation), in, w, GetParam(), tolerance(),
                              gpu_);
  }
  double tolerance() const { return 2 * usual_tolerance(GetParam()); }
  const at::Device gpu_ = pick_device("cuda");
};
INSTANTIATE_TEST_SUITE_P(Types, HeadNormGateGpuTest, ::testing::Values(at::kFloat, at::kBFloat16));

TEST_P(HeadNormGateGpuTest, EqualsTheReferenceAtAnyWidth) {
  for (const int64_t dim : {15, 64, 96, 128, 256, 512, 768, 1000, 1024, 2048, 4100, 8192})
    for (const int64_t n_tokens : {int64_t{2}, several_turns(dim)})
      expect_equal(n_tokens, dim, Activation::kSilu);
}

TEST_P(HeadNormGateGpuTest, EqualsTheReferenceWithEveryActivation) {
  for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh})
    for (const int64_t dim : {33, 64, 128, 256, 512, 1024}) expect_equal(370, dim, activation);
}

TEST_P(HeadNormGateGpuTest, OneChannelEqualsTheCpu) {
  const Tensors in = {random_normal({1, 900, 5, 1}, "o").to(GetParam()),
                      random_normal({1, 900, 5}, "gate").to(GetParam())};
  const at::Tensor w = random_normal({1}, "w").to(GetParam());
  const OpResult cpu = run_op(op(Activation::kSilu), in, {w}),
                 gpu =
                     run_op(op(Activation::kSilu), {in[0].to(gpu_), in[1].to(gpu_)}, {w.to(gpu_)});
  const Bound bound{.absolute = tolerance(), .relative = tolerance()};
  expect_close(gpu.outputs[0], cpu.outputs[0], bound);
  expect_close(gpu.input_grads[1], cpu.input_grads[1], bound);
  // A sum of terms of size one with either sign.
  expect_close(gpu.weight_grads[0], cpu.weight_grads[0], {.absolute = 1e-5 * std::sqrt(4500.0)});
  // A difference of numbers of size dy w / o, most of them equal.
  const at::Tensor size = in[0].to(at::kDouble).abs().clamp_min(std::sqrt(kEps));
  expect_close(gpu.input_grads[0].to(at::kCPU, at::kDouble) * size,
               cpu.input_grads[0].to(at::kDouble) * size,
               {.absolute = 2e-5, .relative = tolerance()});
}

TEST_P(HeadNormGateGpuTest, TakesAGateInsideAFusedProjection) {
  constexpr int64_t kDim = 64, kWidth = 2 * kDim;
  // All rows begin at multiples of 16 bytes; none does; a few do; there is no gap between rows.
  for (const auto& [width, begin] :
       {std::pair<int64_t, int64_t>{400, 16}, {400, 3}, {401, 0}, {kWidth, 0}}) {
    for (const auto& [batch, seq_len] :
         {std::pair<int64_t, int64_t>{2, 400}, {1, 6}, {3, 1}, {1, 1}}) {
      const auto gate = [begin = begin](const at::Tensor& fused) {
        return fused.narrow(2, begin, kWidth);
      };
      expect_equals_reference(
          [&](const Tensors& in, const std::vector<Parameter>& p) {
            return op(Activation::kSilu)({in[0], gate(in[1])}, p);
          },
          [&](const Tensors& in, const Tensors& w) {
            return reference(Activation::kSilu)({in[0], gate(in[1])}, w);
          },
          {random_normal({batch, seq_len, 2, kDim}, "o"),
           random_normal({batch, seq_len, width}, "fused")},
          {1 + random_normal({kDim}, "w", 1, 0.3)}, GetParam(), tolerance(), gpu_);
    }
  }
}

TEST_P(HeadNormGateGpuTest, SaturatedGatesAreExactlyOpenOrShut) {
  const at::Tensor gate =
      at::cat({at::full({1, 1, 8}, 1e4, at::kDouble), at::full({1, 1, 8}, -1e4, at::kDouble)}, 2);
  for (const Activation activation :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
    const OpResult got = run_op(
        op(activation),
        {random_normal({1, 1, 2, 8}, "o").to(gpu_, GetParam()), gate.to(gpu_, GetParam())}, {});
    EXPECT_TRUE(at::isfinite(got.outputs[0]).all().item<bool>());
    for (const at::Tensor& grad : got.input_grads)
      EXPECT_TRUE(at::isfinite(grad).all().item<bool>());
    expect_close(got.outputs[0].narrow(2, 8, 8), at::full({1, 1, 8}, 0.0), {.absolute = 1e-30});
    expect_close(got.input_grads[0].select(2, 1), at::full({1, 1, 8}, 0.0), {.absolute = 1e-30});
  }
}

TEST_P(HeadNormGateGpuTest, TwoRunsAgreeToTheBit) {
  for (const int64_t dim : {64, 128, 256, 512, 1001}) {
    const int64_t n_tokens = several_turns(dim);
    const at::Tensor o = random_normal({1, n_tokens, 3, dim}, "o").to(gpu_, GetParam()),
                     gate = random_normal({1, n_tokens, 3 * dim}, "gate").to(gpu_, GetParam()),
                     w = random_normal({dim}, "w").to(gpu_, GetParam());
    const OpResult once = run_op(op(Activation::kSilu), {o, gate}, {w}),
                   again = run_op(op(Activation::kSilu), {o, gate}, {w});
    EXPECT_TRUE(at::equal(once.outputs[0], again.outputs[0])) << dim;
    EXPECT_TRUE(at::equal(once.input_grads[0], again.input_grads[0])) << dim;
    EXPECT_TRUE(at::equal(once.input_grads[1], again.input_grads[1])) << dim;
    EXPECT_TRUE(at::equal(once.weight_grads[0], again.weight_grads[0])) << dim;
  }
}

TEST_P(HeadNormGateGpuTest, AddsToTheGradientThatIsThere) {
  for (const int64_t dim : {96, 256, 1001}) {
    const Parameter w = parameter_of(random_normal({dim}, "w").to(gpu_, GetParam()));
    const at::Tensor o = random_normal({1, 700, 2, dim}, "o").to(gpu_, GetParam()),
                     gate = random_normal({1, 700, 2 * dim}, "gate").to(gpu_, GetParam()),
                     dy = random_normal({1, 700, 2 * dim}, "dy").to(gpu_, GetParam());
    o.requires_grad_();
    const auto run = [&] {
      torch::autograd::backward({head_norm_gate(o, gate, &w, kEps, Activation::kSilu)}, {dy});
    };
    run();
    const at::Tensor once = w.grad.clone();
    EXPECT_GT(once.abs().max().item<double>(), 1);
    run();
    EXPECT_TRUE(at::equal(w.grad, 2 * once)) << dim;  // doubling does not round
  }
}

TEST(HeadNormGateGpu, Float64TakesTheReference) {
  expect_equals_reference(op(Activation::kGelu), reference(Activation::kGelu),
                          {random_normal({2, 7, 3, 9}, "o"), random_normal({2, 7, 27}, "gate")},
                          {random_normal({9}, "w")}, at::kDouble, usual_tolerance(at::kDouble),
                          pick_device("cuda"));
}

TEST(HeadNormGateGpu, IndicesPassTwoToThe31) {  // 4.3 GB a tensor
  const auto options = at::dtype(at::kBFloat16).device(pick_device("cuda"));
  constexpr int64_t kHeads = 3, kDim = 256, kRows = (int64_t{1} << 31) / (kHeads * kDim) + 8;
  const Parameter w = parameter_of(at::full({kDim}, 0.5, options));
  const at::Tensor o = at::randn({1, kRows, kHeads, kDim}, options).requires_grad_(),
                   gate = at::randn({1, kRows, kHeads * kDim}, options).requires_grad_(),
                   dy = at::randn({1, kRows, kHeads * kDim}, options);
  const auto last = [&](const at::Tensor& of) { return of.detach().narrow(1, kRows - 8, 8); };
  const at::Tensor last_o = last(o).clone().requires_grad_(),
                   last_gate = last(gate).clone().requires_grad_();
  const at::Tensor y = head_norm_gate(o, gate, &w, kEps, Activation::kSilu),
                   last_y = head_norm_gate(last_o, last_gate, &w, kEps, Activation::kSilu);
  EXPECT_TRUE(at::equal(last(y), last_y));
  torch::autograd::backward({y, last_y}, {dy, last(dy).clone()});
  EXPECT_TRUE(at::equal(last(o.grad()), last_o.grad()));
  EXPECT_TRUE(at::equal(last(gate.grad()), last_gate.grad()));
}

TEST(HeadNormGateGpu, AWeightElsewhereIsNamed) {
  const auto options = at::dtype(at::kFloat).device(pick_device("cuda"));
  const Parameter w = parameter_of(random_normal({4}, "w").to(at::kFloat));
  expect_error(
      [&] {
        head_norm_gate(at::zeros({1, 2, 2, 4}, options), at::zeros({1, 2, 8}, options), &w, kEps,
                       Activation::kSilu);
      },
      "head_norm_gate: o, gate and weight must be on one device");
}

}  // namespace
}  // namespace ceiling
