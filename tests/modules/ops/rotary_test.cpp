#include "modules/ops/rotary/rotary.h"

#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <tuple>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

RotaryLayout layout_of(bool interleaved) {
  return {.n_q_heads = 3,
          .n_k_heads = 2,
          .head_dim = 6,
          .rest = {5, 7},
          .interleaved = interleaved,
          .q_scale = 1.5,
          .k_scale = 0.25};
}
constexpr int64_t kWidth = 5 * 6 + 5 + 7;

// in[1], if given, are positions.
Op op(const RotaryLayout& layout) {
  auto table = std::make_shared<RotaryTable>(rope_frequencies(layout.turned(), 100));
  return [=](const Tensors& in, const std::vector<Parameter>&) -> Tensors {
    const RotaryOutput out =
        split_rotary(in[0], in.size() > 1 ? in[1] : at::Tensor(), *table, layout);
    Tensors all = {out.q, out.k};
    all.insert(all.end(), out.rest.begin(), out.rest.end());
    return all;
  };
}
// Angle by angle, from the definition.
Reference reference(const RotaryLayout& layout) {
  return [=](const Tensors& in, const Tensors&) -> Tensors {
    const at::Tensor& x = in[0];
    const int64_t batch = x.size(0), seq_len = x.size(1);
    at::Tensor theta = at::zeros({layout.turned() / 2}, at::kDouble);
    for (int64_t i = 0; i < layout.turned() / 2; ++i)
      theta[i] =
          std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(layout.turned()));
    const at::Tensor position = in.size() > 1
                                    ? in[1].to(at::kDouble)
                                    : at::arange(seq_len, at::kDouble).expand({batch, seq_len});
    const at::Tensor angle = (position.unsqueeze(2) * theta).unsqueeze(2);
    const auto heads = [&](int64_t first, int64_t n, double scale) {
      const at::Tensor part = x.narrow(2, first * layout.head_dim, n * layout.head_dim)
                                  .unflatten(2, {n, layout.head_dim});
      const at::Tensor turned = rotate_reference(part.narrow(3, 0, layout.turned()), angle.cos(),
                                                 angle.sin(), layout.interleaved);
      return at::cat({turned, part.narrow(3, layout.turned(), layout.head_dim - layout.turned())},
                     3) *
             scale;
    };
    const int64_t turned = 5 * layout.head_dim;
    return {heads(0, 3, layout.q_scale), heads(3, 2, layout.k_scale),
            x.narrow(2, turned, layout.rest[0]),
            x.narrow(2, turned + layout.rest[0], layout.rest[1])};
  };
}

// What reads a part, leaving its gradient in the part's place or not.
struct Twice : torch::autograd::Function<Twice> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const GradientPlace& place) {
    ctx->saved_data["place"] = kept(place);
    return 2 * x;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor place = place_of(ctx->saved_data["place"]).offer(grads[0].options());
    if (!place.defined()) return {2 * grads[0], at::Tensor()};
    place.copy_(2 * grads[0]);
    return {place, at::Tensor()};
  }
};

// The outputs of `op` as they are used, so that their gradients arrive in strides: q as attention
// takes it, k and the last part among others, the first part with time before the batch.
template <class Of>
Of used(Of op) {
  return [op](const Tensors& in, const auto& parameters) -> Tensors {
    const Tensors out = op(in, parameters);
    return {out[0].transpose(1, 2), at::cat({out[1], out[1].detach()}, 1), out[2].transpose(0, 1),
            at::cat({out[3].detach(), out[3]}, 2)};
  };
}

class RotaryTest : public ::testing::TestWithParam<std::tuple<at::ScalarType, bool>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  RotaryLayout layout() const { return layout_of(std::get<1>(GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(All, RotaryTest,
                         ::testing::Combine(::testing::Values(at::kDouble, at::kFloat,
                                                              at::kBFloat16),
                                            ::testing::Bool()));

TEST_P(RotaryTest, EqualsTheReference) {
  for (const int64_t seq_len : {1, 2, 33})
    expect_equals_reference(op(layout()), reference(layout()),
                            {random_normal({2, seq_len, kWidth}, "x")}, {}, dtype(),
                            usual_tolerance(dtype()));
}

TEST_P(RotaryTest, TurnsTheFirstChannelsOfAHeadAlone) {
  if (layout().interleaved) return;
  for (const int64_t rotary_dim : {2, 4, 6}) {
    RotaryLayout partial = layout();
    partial.rotary_dim = rotary_dim;
    expect_equals_reference(op(partial), reference(partial), {random_normal({2, 9, kWidth}, "x")},
                            {}, dtype(), usual_tolerance(dtype()));
  }
}

TEST_P(RotaryTest, TakesPositionsAndStridedInputs) {
  expect_equals_reference(op(layout()), reference(layout()),
                          {strided_copy(random_normal({2, 9, kWidth}, "x").to(dtype())),
                           random_ints({2, 9}, 0, 500, "position")},
                          {}, dtype(), usual_tolerance(dtype()));
}

TEST_P(RotaryTest, TakesGradientsInStrides) {
  expect_equals_reference(used(op(layout())), used(reference(layout())),
                          {random_normal({2, 9, kWidth}, "x")}, {}, dtype(),
                          usual_tolerance(dtype()));
}

TEST_P(RotaryTest, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor x = random_normal({3, 401, kWidth}, "x").to(dtype());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(op(layout()), {x}, {});
    return Tensors{r.outputs[0], r.outputs[1], r.input_grads[0]};
  });
}

TEST_P(RotaryTest, OutputsThatNobodyUsesGiveZeroGradients) {
  for (size_t used = 0; used < 4; ++used) {
    const at::Tensor x = random_normal({2, 3, kWidth}, "x").to(dtype()).requires_grad_();
    const Tensors out = op(layout())({x}, {});
    torch::autograd::backward({out[used].sum()}, {});
    const int64_t first[] = {0, 18, 30, 35, kWidth};
    for (size_t part = 0; part < 4; ++part) {
      const at::Tensor grad = x.grad().narrow(2, first[part], first[part + 1] - first[part]);
      if (part == used)
        EXPECT_GT(grad.abs().sum().item<double>(), 0);
      else
        expect_close(grad, at::zeros(grad.sizes()), {});
    }
  }
}

TEST(Rotary, GradientsEqualCentralDifferences) {
  for (const bool interleaved : {false, true})
    expect_gradients_equal_differences(op(layout_of(interleaved)),
                                       {random_normal({1, 2, kWidth}, "x")}, {});
}

TEST(Rotary, TheRestIsNotCopied) {
  const at::Tensor x = random_normal({2, 3, kWidth}, "x");
  const Tensors out = op(layout_of(false))({x}, {});
  EXPECT_EQ(out[2].const_data_ptr(), static_cast<const double*>(x.const_data_ptr()) + 30);
}

TEST(Rotary, FarPositionsAreExactToTheLastBitOfFloat) {
  const RotaryLayout layout{.n_q_heads = 1, .n_k_heads = 1, .head_dim = 2, .rest = {}};
  RotaryTable table({1.0});
  const int far = 100000;
  const at::Tensor x = at::full({1, 1, 4}, 1.0, at::kFloat);
  const RotaryOutput out = split_rotary(x, at::full({1, 1}, far, at::kInt), table, layout);
  EXPECT_FLOAT_EQ(out.q.select(3, 0).item<float>(),
                  static_cast<float>(static_cast<float>(std::cos(1.0 * far)) -
                                     static_cast<float>(std::sin(1.0 * far))));
}

TEST(Rotary, TheTableGrowsAndKeepsItsValues) {
  RotaryTable table(rope_frequencies(8, 10000));
  const at::Tensor small = table.table(5, at::kFloat, at::kCPU);
  const at::Tensor large = table.table(50, at::kFloat, at::kCPU);
  EXPECT_GE(large.size(0), 50);
  expect_close(large.narrow(0, 0, 5), small.narrow(0, 0, 5), {});
}

TEST(Rotary, FrequenciesAreTheAuthors) {
  const auto rope = rope_frequencies(8, 10000);
  EXPECT_EQ(rope.size(), 4u);
  EXPECT_DOUBLE_EQ(rope[0], 1.0);
  EXPECT_DOUBLE_EQ(rope[3], std::pow(10000.0, -0.75));
  const auto retnet = retnet_torchscale_frequencies(8);
  EXPECT_DOUBLE_EQ(retnet[0], 1.0);
  EXPECT_DOUBLE_EQ(retnet[1], std::pow(10000.0, -1.0 / 3));
  EXPECT_DOUBLE_EQ(retnet[3], 1e-4);
}

TEST(Rotary, WrongArgumentsAreNamed) {
  RotaryTable table(rope_frequencies(6, 100));
  const at::Tensor x = random_normal({1, 2, kWidth}, "x");
  expect_error([&] { split_rotary(x.narrow(2, 0, 41), {}, table, layout_of(false)); },
               "rotary: x must be [B, T, 42]");
  expect_error(
      [&] {
        split_rotary(x, {}, table, {.n_q_heads = 7, .n_k_heads = 7, .head_dim = 3, .rest = {}});
      },
      "rotary: head_dim 3 is odd; rotary positions need pairs");
  expect_error(
      [&] {
        split_rotary(x, at::full({1, 2}, -1, at::kInt), table, layout_of(false));
      },
      "rotary: position -1 is negative");
  expect_error(
      [&] {
        split_rotary(x, at::full({1, 3}, 1, at::kInt), table, layout_of(false));
      },
      "rotary: position must be [1, 2], a number for each token");
  expect_error(
      [&] {
        split_rotary(x, {}, table,
                     {.n_q_heads = 3, .n_k_heads = 2, .head_dim = 6, .rest = {4, 4, 2, 1, 1}});
      },
      "rotary: 5 parts after q and k, at most 4 are supported");
  RotaryLayout partial = layout_of(true);
  partial.rotary_dim = 4;
  expect_error([&] { split_rotary(x, {}, table, partial); },
               "rotary: rotary_dim 4 must be even and at most head_dim 6, and equal to it with "
               "interleaved pairs");
}

RotaryLayout layout_of(int64_t head_dim, std::vector<int64_t> rest, bool interleaved) {
  RotaryLayout layout = layout_of(interleaved);
  layout.head_dim = head_dim, layout.rest = std::move(rest);
  return layout;
}
int64_t width_of(const RotaryLayout& layout) {
  return 5 * layout.head_dim + layout.rest[0] + layout.rest[1];
}
// Heads and parts that are whole 16-byte pieces, and others.
std::vector<RotaryLayout> gpu_layouts() {
  std::vector<RotaryLayout> layouts;
  for (const bool interleaved : {false, true})
    for (const int64_t head_dim : {6, 16, 64})
      for (const auto& rest : {std::vector<int64_t>{64, 128}, {5, 7}})
        layouts.push_back(layout_of(head_dim, rest, interleaved));
  for (const int64_t rotary_dim : {2, 16, 32}) {  // of heads that turn in part
    layouts.push_back(layout_of(64, {64, 128}, false));
    layouts.back().rotary_dim = rotary_dim;
  }
  return layouts;
}

TEST(RotaryGpu, EqualsTheReference) {
  const at::Device gpu = pick_device("cuda");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const RotaryLayout& layout : gpu_layouts()) {
      const at::Tensor x = random_normal({2, 33, width_of(layout)}, "x");
      expect_equals_reference(op(layout), reference(layout), {x}, {}, dtype,
                              2 * usual_tolerance(dtype), gpu);
      expect_equals_reference(op(layout), reference(layout),
                              {x, random_ints({2, 33}, 0, 500, "position")}, {}, dtype,
                              2 * usual_tolerance(dtype), gpu);
    }
}

TEST(RotaryGpu, TakesGradientsInStrides) {
  const at::Device gpu = pick_device("cuda");
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const RotaryLayout& layout : gpu_layouts())
      for (const int64_t batch : {1, 3})
        expect_equals_reference(used(op(layout)), used(reference(layout)),
                                {random_normal({batch, 33, width_of(layout)}, "x")}, {}, dtype,
                                2 * usual_tolerance(dtype), gpu);
}

TEST(RotaryGpu, TakesRowsThatBeginAtAnyElement) {
  const at::Device gpu = pick_device("cuda");
  const RotaryLayout layout = layout_of(16, {32, 64}, false);
  const int64_t width = width_of(layout);
  const auto shifted = [&](auto of) {
    return [=](const Tensors& in, const auto& parameters) -> Tensors {
      return of({in[0].narrow(0, 1, 2 * 7 * width).view({2, 7, width})}, parameters);
    };
  };
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    expect_equals_reference(shifted(op(layout)), shifted(reference(layout)),
                            {random_normal({1 + 2 * 7 * width}, "x")}, {}, dtype,
                            2 * usual_tolerance(dtype), gpu);
}

TEST(RotaryGpu, OutputsThatNobodyUsesGiveZeroGradients) {
  const at::Device gpu = pick_device("cuda");
  for (const RotaryLayout& layout : gpu_layouts())
    for (size_t used = 0; used < 4; ++used) {
      const at::Tensor x =
          random_normal({2, 3, width_of(layout)}, "x").to(gpu, at::kBFloat16).requires_grad_();
      torch::autograd::backward({op(layout)({x}, {})[used].sum()}, {});
      int64_t first = 0;
      const int64_t widths[] = {3 * layout.head_dim, 2 * layout.head_dim, layout.rest[0],
                                layout.rest[1]};
      for (size_t part = 0; part < 4; first += widths[part++])
        EXPECT_EQ(x.grad().narrow(2, first, widths[part]).abs().sum().item<double>() > 0,
                  part == used);
    }
}

// All, some or no parts in their places; a part that is read twice; and a second backward pass.
TEST(Rotary, GradientsThatLieInTheirPlacesAreThoseThatAreCopied) {
  const RotaryLayout layout = layout_of(false);
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const auto gradients = [&](bool first, bool second, bool again) {
      RotaryTable table(rope_frequencies(6, 100));
      const at::Tensor x = random_normal({2, 9, kWidth}, "x").to(dtype).requires_grad_();
      const RotaryOutput out = split_rotary(x, {}, table, layout);
      const GradientPlace none;
      Tensors used = {out.q, out.k, Twice::apply(out.rest[0], first ? out.places[0] : none),
                      Twice::apply(out.rest[1], second ? out.places[1] : none)};
      if (again) used.push_back(Twice::apply(out.rest[1], second ? out.places[1] : none));
      at::Tensor loss = at::zeros({}, dtype);
      for (const at::Tensor& part : used)
        loss = loss + (part * random_normal(part.sizes(), "weights").to(dtype)).sum();
      Tensors passes;
      for (int pass = 0; pass < 2; ++pass)
        passes.push_back(torch::autograd::grad({loss}, {x}, {}, /*retain_graph=*/true)[0]);
      return passes;
    };
    for (const bool again : {false, true}) {
      const Tensors want = gradients(false, false, again);
      for (const auto& [first, second] : {std::pair{true, false}, {false, true}, {true, true}}) {
        const Tensors got = gradients(first, second, again);
        for (int pass = 0; pass < 2; ++pass)
          EXPECT_TRUE(at::equal(got[pass], want[pass])) << first << second << again << pass;
      }
    }
  }
}

// The gradient's memory is the place itself: nothing was copied.
TEST(Rotary, GradientsInTheirPlacesAreNotCopied) {
  RotaryTable table(rope_frequencies(6, 100));
  const at::Tensor x = random_normal({2, 9, kWidth}, "x").requires_grad_();
  const RotaryOutput out = split_rotary(x, {}, table, layout_of(false));
  const at::Tensor place = out.places[1].offer(x.options());
  place.fill_(3);
  const at::Tensor dx =
      torch::autograd::grad({out.rest[1]}, {x}, {place.detach()}, /*retain_graph=*/true)[0];
  EXPECT_EQ(dx.narrow(2, kWidth - 7, 7).const_data_ptr(), place.const_data_ptr());
  EXPECT_TRUE(at::equal(dx.narrow(2, kWidth - 7, 7), at::full({2, 9, 7}, 3.0, at::kDouble)));
  EXPECT_TRUE(at::equal(dx.narrow(2, 0, kWidth - 7), at::zeros({2, 9, kWidth - 7}, at::kDouble)));
}

}  // namespace
}  // namespace ceiling
