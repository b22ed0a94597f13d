#include "modules/ops/causal_conv1d/causal_conv1d.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

// Inputs: x, and the state if there are two. Weights: the taps, and the bias if there are two.
Op op(bool silu, const Segments& segments = {}) {
  return [=](const Tensors& in, const std::vector<Parameter>& w) -> Tensors {
    const auto out = causal_conv1d(in[0], w[0], w.size() > 1 ? &w[1] : nullptr,
                                   in.size() > 1 ? in[1] : at::Tensor(), segments, silu);
    return {out.y, out.state};
  };
}
Reference reference(bool silu, const Segments& segments = {}) {
  return [=](const Tensors& in, const Tensors& w) -> Tensors {
    const auto out = causal_conv1d_reference(in[0], w[0], w.size() > 1 ? w[1] : at::Tensor(),
                                             in.size() > 1 ? in[1] : at::Tensor(), segments, silu);
    return {out.y, out.state};
  };
}

// Row 0: lengths of one token up to more than a kernel; row 1 begins with a new document.
Segments some_segments(int64_t batch, int64_t seq_len) {
  at::Tensor document = at::zeros({batch, seq_len}, at::kInt);
  const std::vector<int64_t> lengths = {5, 1, 2, 1, 1, 3, 40, 2};
  for (int64_t b = 0; b < batch; ++b) {
    int64_t t = 0;
    for (size_t i = 0; t < seq_len; ++i) {
      const int64_t n = std::min(lengths[(i + static_cast<size_t>(b)) % 8], seq_len - t);
      document[b].narrow(0, t, n).fill_(static_cast<int64_t>(i) + b % 2);
      t += n;
    }
  }
  return make_segments(document);
}

class CausalConv1dTest : public ::testing::TestWithParam<std::tuple<at::ScalarType, bool>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  bool silu() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, CausalConv1dTest,
                         ::testing::Combine(::testing::Values(at::kDouble, at::kFloat,
                                                              at::kBFloat16),
                                            ::testing::Bool()));

TEST_P(CausalConv1dTest, EqualsTheReferenceWithAndWithoutBiasAndState) {
  for (const int64_t width : {2, 3, 4})
    for (const int64_t seq_len : {1, 2, 3, 63, 64, 65, 130}) {
      const at::Tensor x = random_normal({2, seq_len, 19}, "x"),
                       state = random_normal({2, width - 1, 19}, "state"),
                       weight = random_normal({19, 1, width}, "w"),
                       bias = random_normal({19}, "bias");
      for (const Tensors& in : {Tensors{x}, Tensors{x, state}})
        for (const Tensors& w : {Tensors{weight}, Tensors{weight, bias}})
          expect_equals_reference(op(silu()), reference(silu()), in, w, dtype(),
                                  usual_tolerance(dtype()));
    }
}

TEST_P(CausalConv1dTest, NoTapReachesOverTheStartOfADocument) {
  for (const int64_t width : {2, 3, 4})
    for (const int64_t seq_len : {1, 2, 7, 66, 131}) {
      const Segments segments = some_segments(3, seq_len);
      expect_equals_reference(
          op(silu(), segments), reference(silu(), segments),
          {random_normal({3, seq_len, 18}, "x"), random_normal({3, width - 1, 18}, "state")},
          {random_normal({18, 1, width}, "w"), random_normal({18}, "bias")}, dtype(),
          usual_tolerance(dtype()));
    }
}

TEST_P(CausalConv1dTest, TakesASliceOfAWiderProjectionAndAnyStrides) {
  const at::Tensor wide = random_normal({2, 20, 40}, "x").to(dtype());
  for (const at::Tensor& x : {wide.narrow(2, 7, 17), strided_copy(wide.narrow(2, 7, 17)),
                              random_normal({20, 17, 2}, "x").to(dtype()).permute({2, 0, 1})})
    expect_equals_reference(op(silu()), reference(silu()),
                            {x, strided_copy(random_normal({2, 3, 17}, "state").to(dtype()))},
                            {random_normal({17, 1, 4}, "w"), random_normal({17}, "bias")}, dtype(),
                            usual_tolerance(dtype()));
}

TEST_P(CausalConv1dTest, AnyCutsWithACarriedStateGiveTheSinglePass) {
  const Parameter weight = parameter_of(random_normal({16, 1, 4}, "w").to(dtype())),
                  bias = parameter_of(random_normal({16}, "bias").to(dtype()));
  const at::Tensor x = random_normal({2, 71, 16}, "x").to(dtype());
  const auto whole = causal_conv1d(x, weight, &bias, {}, {}, silu());
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{70, 1}, {1, 1, 1, 1, 67}, {2, 64, 3, 2}}) {
    at::Tensor state;
    Tensors pieces;
    int64_t t = 0;
    for (const int64_t n : cuts) {
      const auto piece = causal_conv1d(x.narrow(1, t, n), weight, &bias, state, {}, silu());
      pieces.push_back(piece.y), state = piece.state, t += n;
    }
    EXPECT_TRUE(at::equal(at::cat(pieces, 1), whole.y));  // same sums in the same order
    EXPECT_TRUE(at::equal(state, whole.state));
  }
}

TEST_P(CausalConv1dTest, ANotANumberStaysInItsDocumentAndReach) {
  at::Tensor x = random_normal({1, 20, 8}, "x").to(dtype());
  x[0][3].fill_(std::numeric_limits<double>::quiet_NaN());
  at::Tensor document = at::zeros({1, 20}, at::kInt);
  document.narrow(1, 5, 15).fill_(1);
  const OpResult got =
      run_op(op(silu(), make_segments(document)), {x}, {random_normal({8, 1, 4}, "w").to(dtype())});
  const at::Tensor fine = at::isfinite(got.outputs[0]).all(2).view({20});
  for (int64_t t = 0; t < 20; ++t)
    EXPECT_EQ(fine[t].item<bool>(), t != 3 && t != 4) << "token " << t;
  EXPECT_TRUE(at::isfinite(got.input_grads[0].narrow(1, 5, 15)).all().item<bool>());
}

TEST_P(CausalConv1dTest, SaturatedActivationsAreFinite) {
  const OpResult got = run_op(
      op(silu()),
      {at::cat({at::full({1, 6, 4}, 1e4, at::kDouble), at::full({1, 6, 4}, -1e4)}, 2).to(dtype())},
      {at::full({8, 1, 4}, 1.0).to(dtype())});
  EXPECT_TRUE(at::isfinite(got.outputs[0]).all().item<bool>());
  EXPECT_TRUE(at::isfinite(got.input_grads[0]).all().item<bool>());
  EXPECT_TRUE(at::isfinite(got.weight_grads[0]).all().item<bool>());
}

TEST_P(CausalConv1dTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor x = random_normal({3, 201, 24}, "x").to(dtype()),
                   w = random_normal({24, 1, 4}, "w").to(dtype()),
                   bias = random_normal({24}, "bias").to(dtype());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(op(silu()), {x}, {w, bias});
    return Tensors{r.outputs[0], r.input_grads[0], r.weight_grads[0], r.weight_grads[1]};
  });
}

TEST(CausalConv1d, IsAPaddedGroupedConvolution) {
  const at::Tensor x = random_normal({2, 30, 6}, "x"), w = random_normal({6, 1, 4}, "w"),
                   bias = random_normal({6}, "bias");
  const Parameter weight = parameter_of(w), shift = parameter_of(bias);
  const at::Tensor want = at::conv1d(x.transpose(1, 2), w, bias, 1, 3, 1, 6).narrow(2, 0, 30);
  expect_close(causal_conv1d(x, weight, &shift, {}, {}, false).y.detach(), want.transpose(1, 2),
               {.absolute = 1e-12});
}

TEST(CausalConv1d, GradientsEqualCentralDifferences) {
  for (const int64_t width : {2, 3, 4})
    for (const bool silu : {false, true})
      for (const Segments& segments : {Segments{}, some_segments(2, 6)})
        expect_gradients_equal_differences(
            op(silu, segments),
            {random_normal({2, 6, 3}, "x"), random_normal({2, width - 1, 3}, "state")},
            {random_normal({3, 1, width}, "w"), random_normal({3}, "bias")});
}

TEST(CausalConv1d, AddsToTheGradientsThatAreThere) {
  const Parameter w = parameter_of(random_normal({8, 1, 4}, "w")),
                  bias = parameter_of(random_normal({8}, "bias"));
  const at::Tensor x = random_normal({2, 9, 8}, "x"), dy = random_normal({2, 9, 8}, "dy");
  const auto run = [&] {
    torch::autograd::backward({causal_conv1d(x, w, &bias, {}, {}, true).y}, {dy});
  };
  run();
  const at::Tensor once = w.grad.clone(), bias_once = bias.grad.clone();
  EXPECT_GT(once.abs().max().item<double>(), 0.1);
  run();
  EXPECT_TRUE(at::equal(w.grad, 2 * once));  // doubling does not round
  EXPECT_TRUE(at::equal(bias.grad, 2 * bias_once));
}

TEST(CausalConv1d, WrongArgumentsAreNamed) {
  const at::Tensor x = random_normal({2, 5, 6}, "x");
  const Parameter w = parameter_of(random_normal({6, 1, 4}, "w"));
  const auto conv = [&](const at::Tensor& in, const at::Tensor& weight, const at::Tensor& bias,
                        const at::Tensor& state, const Segments& segments) {
    const Parameter b = parameter_of(bias);
    causal_conv1d(in, parameter_of(weight), &b, state, segments, true);
  };
  const at::Tensor bias = random_normal({6}, "bias");
  expect_error([&] { conv(x[0], w.value, bias, {}, {}); },
               "causal_conv1d: x must be [B, T, C] with at least one token");
  expect_error([&] { conv(x.narrow(1, 0, 0), w.value, bias, {}, {}); },
               "causal_conv1d: x must be [B, T, C] with at least one token");
  expect_error([&] { conv(x, w.value.narrow(0, 0, 5), bias, {}, {}); },
               "causal_conv1d: the weight must be [C, 1, W], with the 6 channels of x");
  expect_error(
      [&] {
        conv(x, random_normal({6, 1, 5}, "w"), bias, {}, {});
      },
      "causal_conv1d: a kernel of 5 taps is not supported, use 2 to 4");
  expect_error([&] { conv(x, w.value, bias.narrow(0, 0, 5), {}, {}); },
               "causal_conv1d: the bias must be [C], with the 6 channels of x");
  expect_error(
      [&] {
        conv(x, w.value, bias, random_normal({2, 4, 6}, "state"), {});
      },
      "causal_conv1d: the state must be [B, W - 1, C], the last inputs");
  expect_error([&] { conv(x, w.value, bias, {}, some_segments(2, 6)); },
               "causal_conv1d: the segments must be [B, T], as x is");
  expect_error([&] { conv(x, w.value.to(at::kFloat), bias, {}, {}); },
               "causal_conv1d: x, weight, bias and state differ in dtype");
}

class CausalConv1dGpuTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  static Segments there(Segments segments, at::Device device) {
    for (at::Tensor* x : {&segments.document, &segments.start, &segments.position})
      if (x->defined()) *x = x->to(device);
    return segments;
  }
  const at::Device gpu_ = pick_device("cuda");
};
INSTANTIATE_TEST_SUITE_P(Types, CausalConv1dGpuTest, ::testing::Values(at::kFloat, at::kBFloat16));

// Whole and broken packs; lengths around a thread's tokens and a block's.
TEST_P(CausalConv1dGpuTest, EqualsTheReferenceAtAnyShape) {
  for (const int64_t width : {2, 3, 4})
    for (const auto& [seq_len, channels] :
         {std::pair<int64_t, int64_t>{1, 64}, {2, 40}, {31, 24}, {33, 1800}, {257, 21}, {600, 48}})
      for (const bool silu : {false, true}) {
        const Tensors in = {random_normal({2, seq_len, channels}, "x"),
                            random_normal({2, width - 1, channels}, "state")};
        const Tensors w = {random_normal({channels, 1, width}, "w"),
                           random_normal({channels}, "bias")};
        expect_equals_reference(op(silu), reference(silu), in, w, GetParam(),
                                2 * usual_tolerance(GetParam()), gpu_);
        const Segments segments = some_segments(2, seq_len);
        expect_equals_reference(op(silu, there(segments, gpu_)), reference(silu, segments), in, w,
                                GetParam(), 2 * usual_tolerance(GetParam()), gpu_);
      }
}

TEST_P(CausalConv1dGpuTest, TakesASliceOfAWiderProjection) {
  for (const int64_t begin : {8, 3})
    expect_equals_reference(
        [&](const Tensors& in, const std::vector<Parameter>& w) {
          return op(true)({in[0].narrow(2, begin, 64)}, w);
        },
        [&](const Tensors& in, const Tensors& w) {
          return reference(true)({in[0].narrow(2, begin, 64)}, w);
        },
        {random_normal({2, 70, 104}, "fused")}, {random_normal({64, 1, 4}, "w")}, GetParam(),
        2 * usual_tolerance(GetParam()), gpu_);
}

TEST_P(CausalConv1dGpuTest, TwoRunsAgreeToTheBit) {
  const at::Tensor x = random_normal({3, 700, 264}, "x").to(gpu_, GetParam()),
                   w = random_normal({264, 1, 4}, "w").to(gpu_, GetParam()),
                   bias = random_normal({264}, "bias").to(gpu_, GetParam());
  const OpResult once = run_op(op(true), {x}, {w, bias}), again = run_op(op(true), {x}, {w, bias});
  EXPECT_TRUE(at::equal(once.outputs[0], again.outputs[0]));
  EXPECT_TRUE(at::equal(once.input_grads[0], again.input_grads[0]));
  EXPECT_TRUE(at::equal(once.weight_grads[0], again.weight_grads[0]));
  EXPECT_TRUE(at::equal(once.weight_grads[1], again.weight_grads[1]));
}

TEST(CausalConv1dGpu, Float64TakesTheReference) {
  expect_equals_reference(op(true), reference(true),
                          {random_normal({2, 7, 5}, "x"), random_normal({2, 3, 5}, "state")},
                          {random_normal({5, 1, 4}, "w")}, at::kDouble,
                          usual_tolerance(at::kDouble), pick_device("cuda"));
}

TEST(CausalConv1dGpu, IndicesPassTwoToThe31) {  // 4.3 GB a tensor
  const auto options = at::dtype(at::kBFloat16).device(pick_device("cuda"));
  constexpr int64_t kChannels = 4096, kTokens = (int64_t{1} << 31) / kChannels + 8;
  const Parameter w = parameter_of(at::full({kChannels, 1, 4}, 0.25, options));
  const at::Tensor x = at::randn({1, kTokens, kChannels}, options).requires_grad_(),
                   dy = at::randn({1, kTokens, kChannels}, options);
  const auto last = [&](const at::Tensor& of) { return of.detach().narrow(1, kTokens - 8, 8); };
  const at::Tensor before = x.detach().narrow(1, kTokens - 11, 3).contiguous();
  const at::Tensor last_x = last(x).clone().requires_grad_();
  const auto y = causal_conv1d(x, w, nullptr, {}, {}, true),
             last_y = causal_conv1d(last_x, w, nullptr, before, {}, true);
  EXPECT_TRUE(at::equal(last(y.y), last_y.y));
  torch::autograd::backward({y.y, last_y.y}, {dy, last(dy).clone()});
  EXPECT_TRUE(at::equal(last(x.grad()), last_x.grad()));
}

}  // namespace
}  // namespace ceiling
