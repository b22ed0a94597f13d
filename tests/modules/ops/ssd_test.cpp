#include "modules/ops/ssd/ssd.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
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

// Inputs x, dt, b, c and, if there are five, the state; weights A_log, D, dt_bias.
Op op(const SsdOptions& options = {}, const Segments& segments = {}) {
  return [=](const Tensors& in, const std::vector<Parameter>& w) -> Tensors {
    const auto out = ssd(in[0], in[1], in[2], in[3], {w[0], w[1], w[2]},
                         in.size() > 4 ? in[4] : at::Tensor(), segments, options);
    return {out.y, out.state};
  };
}
Reference reference(const SsdOptions& options = {}, const Segments& segments = {}) {
  return [=](const Tensors& in, const Tensors& w) -> Tensors {
    const auto out = ssd_reference(in[0], in[1], in[2], in[3], w[0], w[1], w[2],
                                   in.size() > 4 ? in[4] : at::Tensor(), segments, options);
    return {out.y, out.state};
  };
}

struct Shape {
  int64_t batch, seq_len, heads, dim, groups, d_state;
};

Tensors inputs(const Shape& s, bool with_state = true) {
  Tensors in = {random_normal({s.batch, s.seq_len, s.heads, s.dim}, "x"),
                random_normal({s.batch, s.seq_len, s.heads}, "dt"),
                random_normal({s.batch, s.seq_len, s.groups, s.d_state}, "b"),
                random_normal({s.batch, s.seq_len, s.groups, s.d_state}, "c")};
  if (with_state) in.push_back(random_normal({s.batch, s.heads, s.d_state, s.dim}, "state"));
  return in;
}
// Decays from slow to fast, time steps from 0.02 to 1.
Tensors weights(int64_t heads) {
  return {random_normal({heads}, "A_log", 1, 0.7), random_normal({heads}, "D"),
          random_normal({heads}, "dt_bias") - 2};
}

Segments some_segments(int64_t batch, int64_t seq_len) {
  at::Tensor document = at::zeros({batch, seq_len}, at::kInt);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 1; t < seq_len; ++t)
      document[b][t] = document[b][t - 1] + (t % (7 + 4 * b) == 0 || t == 20 ? 1 : 0);
  return make_segments(document);
}

class SsdTest : public ::testing::TestWithParam<std::tuple<at::ScalarType, RetentionForm>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  SsdOptions options(int64_t chunk = 16) const {
    return {.form = std::get<1>(GetParam()), .chunk = chunk};
  }
  // bfloat16: Delta x is rounded before it is multiplied, so sums of some hundred terms of either
  // sign carry 0.2 % of each.
  double tolerance() const {
    return dtype() == at::kBFloat16 ? 5 * usual_tolerance(dtype()) : usual_tolerance(dtype());
  }
  // Parameters are in float32 where the rest is bfloat16.
  Op op(const SsdOptions& with, const Segments& segments = {}) const {
    return [half = dtype() == at::kBFloat16, inner = ceiling::op(with, segments)](
               const Tensors& in, const std::vector<Parameter>& w) -> Tensors {
      std::vector<Parameter> wide = w;
      Tensors given = in;
      if (half) {
        for (Parameter& parameter : wide)
          parameter.value = parameter.value.detach().to(at::kFloat).requires_grad_();
        if (in.size() > 4) given[4] = in[4].to(at::kFloat);
      }
      return inner(given, wide);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(
    All, SsdTest,
    ::testing::Combine(::testing::Values(at::kDouble, at::kFloat, at::kBFloat16),
                       ::testing::Values(RetentionForm::kParallel, RetentionForm::kChunk,
                                         RetentionForm::kRecurrent)));

TEST_P(SsdTest, EqualsTheReferenceAtChunkEdges) {
  for (const int64_t seq_len : {1, 2, 15, 16, 17, 50})
    for (const bool with_state : {false, true})
      expect_equals_reference(op(options()), reference(),
                              inputs({2, seq_len, 4, 6, 2, 10}, with_state), weights(4), dtype(),
                              tolerance());
}

TEST_P(SsdTest, EqualsTheReferenceForAnyNumberOfGroups) {
  for (const int64_t groups : {1, 2, 4})
    expect_equals_reference(op(options()), reference(), inputs({2, 20, 4, 33, groups, 16}),
                            weights(4), dtype(), tolerance());
}

TEST_P(SsdTest, NothingPassesTheStartOfADocument) {
  const Segments segments = some_segments(2, 40);
  expect_equals_reference(op(options(), segments), reference({}, segments),
                          inputs({2, 40, 2, 8, 1, 12}), weights(2), dtype(), tolerance());
}

TEST_P(SsdTest, TakesSlicesOfAProjectionAndAnyStrides) {
  const at::Tensor fused = random_normal({2, 19, 60}, "fused").to(dtype());
  const auto heads = [](const at::Tensor& rows, int64_t n) {
    return rows.unflatten(-1, {n, rows.size(-1) / n});
  };
  for (const bool strided : {false, true}) {
    Tensors in = {heads(fused.narrow(2, 3, 24), 4), fused.narrow(2, 27, 4),
                  heads(fused.narrow(2, 31, 10), 1), heads(fused.narrow(2, 41, 10), 1)};
    if (strided)
      for (at::Tensor& x : in) x = strided_copy(x);
    expect_equals_reference(op(options()), reference(), in, weights(4), dtype(), tolerance());
  }
}

TEST_P(SsdTest, ClampedTimeStepsPassNoGradient) {
  SsdOptions limited = options();
  limited.dt_min = 0.1, limited.dt_max = 0.4;
  const Tensors in = inputs({2, 20, 3, 5, 1, 7}, false);
  expect_equals_reference(op(limited), reference(limited), in, weights(3), dtype(), tolerance());
}

TEST_P(SsdTest, ExtremeTimeStepsAndDecaysAreFinite) {
  Tensors in = inputs({1, 40, 2, 4, 1, 6}, false);
  in[1] = at::cat({at::full({1, 40, 1}, 200.0, at::kDouble), at::full({1, 40, 1}, -200.0)}, 2);
  Tensors w = weights(2);
  w[0] = at::full({2}, 4.0, at::kDouble);  // decays of exp(-10920) and of 1
  for (at::Tensor& x : in) x = x.to(dtype());
  for (at::Tensor& x : w) x = x.to(dtype());
  const OpResult got = run_op(op(options()), in, w);
  EXPECT_TRUE(at::isfinite(got.outputs[0]).all().item<bool>());
  for (const at::Tensor& grad : got.input_grads) EXPECT_TRUE(at::isfinite(grad).all().item<bool>());
  for (const at::Tensor& grad : got.weight_grads)
    EXPECT_TRUE(at::isfinite(grad).all().item<bool>());
}

TEST_P(SsdTest, IsTheSameForAnyNumberOfThreads) {
  const Tensors in = inputs({2, 70, 4, 16, 2, 16}, false);
  Tensors given, w = weights(4);
  for (const at::Tensor& x : in) given.push_back(x.to(dtype()));
  for (at::Tensor& x : w) x = x.to(dtype());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(op(options()), given, w);
    Tensors all = {r.outputs[0], r.outputs[1]};
    all.insert(all.end(), r.input_grads.begin(), r.input_grads.end());
    all.insert(all.end(), r.weight_grads.begin(), r.weight_grads.end());
    return all;
  });
}

TEST(Ssd, AnyCutsWithACarriedStateGiveTheSinglePass) {
  const Tensors in = inputs({2, 71, 4, 6, 2, 10}, false), w = weights(4);
  const std::vector<Parameter> p = {parameter_of(w[0]), parameter_of(w[1]), parameter_of(w[2])};
  const auto run = [&](int64_t from, int64_t n, const at::Tensor& state) {
    const SsdOptions options{.form = n == 1 ? RetentionForm::kRecurrent : RetentionForm::kChunk,
                             .chunk = 16};
    return ssd(in[0].narrow(1, from, n), in[1].narrow(1, from, n), in[2].narrow(1, from, n),
               in[3].narrow(1, from, n), {p[0], p[1], p[2]}, state, {}, options);
  };
  const SsdOutput whole = run(0, 71, {});
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{70, 1}, {1, 1, 1, 68}, {2, 64, 3, 2}}) {
    at::Tensor state;
    Tensors pieces;
    int64_t t = 0;
    for (const int64_t n : cuts) {
      const SsdOutput piece = run(t, n, state);
      pieces.push_back(piece.y.detach()), state = piece.state, t += n;
    }
    expect_close(at::cat(pieces, 1), whole.y.detach(), {.absolute = 1e-12, .relative = 1e-12});
    expect_close(state.detach(), whole.state.detach(), {.absolute = 1e-12, .relative = 1e-12});
  }
}

TEST(Ssd, GradientsEqualCentralDifferences) {
  for (const RetentionForm form :
       {RetentionForm::kParallel, RetentionForm::kChunk, RetentionForm::kRecurrent})
    for (const Segments& segments : {Segments{}, some_segments(2, 9)})
      expect_gradients_equal_differences(op({.form = form, .chunk = 4}, segments),
                                         inputs({2, 9, 4, 2, 2, 3}), weights(4));
}

// Values of H = 1, P = 2, N = 2 by hand in the reference implementation of the equations (float64,
// five tokens): Delta = softplus(0.3 t - 1), B = (1, t / 5), C = (cos t, 1), A = -1.5, D = 0.5.
TEST(Ssd, IsTheRecurrenceItself) {
  const auto row = [](auto f) {
    at::Tensor out = at::zeros({1, 5, 1, 2}, at::kDouble);
    for (int t = 0; t < 5; ++t)
      for (int i = 0; i < 2; ++i) out[0][t][0][i] = f(t, i);
    return out;
  };
  const at::Tensor x = row([](int t, int i) { return i == 0 ? std::sin(t) : std::cos(t); }),
                   b = row([](int t, int i) { return i == 0 ? 1.0 : t / 5.0; }),
                   c = row([](int t, int i) { return i == 0 ? std::cos(t) : 1.0; });
  at::Tensor dt = at::zeros({1, 5, 1}, at::kDouble);
  for (int t = 0; t < 5; ++t) dt[0][t][0] = 0.3 * t - 1;
  const Parameter a_log = parameter_of(at::full({1}, std::log(1.5), at::kDouble)),
                  d = parameter_of(at::full({1}, 0.5, at::kDouble)),
                  dt_bias = parameter_of(at::zeros({1}, at::kDouble));
  const SsdOutput out = ssd(x, dt, b, c, {a_log, d, dt_bias}, {}, {}, {});
  double state[2][2] = {};  // [N][P]
  for (int t = 0; t < 5; ++t) {
    const double delta = std::log1p(std::exp(0.3 * t - 1));
    for (int n = 0; n < 2; ++n)
      for (int p = 0; p < 2; ++p)
        state[n][p] = std::exp(-1.5 * delta) * state[n][p] +
                      delta * b[0][t][0][n].item<double>() * x[0][t][0][p].item<double>();
    for (int p = 0; p < 2; ++p) {
      const double want = c[0][t][0][0].item<double>() * state[0][p] +
                          c[0][t][0][1].item<double>() * state[1][p] +
                          0.5 * x[0][t][0][p].item<double>();
      EXPECT_NEAR(out.y[0][t][0][p].item<double>(), want, 1e-14) << "token " << t;
    }
  }
}

TEST(Ssd, WrongArgumentsAreNamed) {
  const Tensors in = inputs({2, 5, 4, 3, 2, 6}), w = weights(4);
  const std::vector<Parameter> p = {parameter_of(w[0]), parameter_of(w[1]), parameter_of(w[2])};
  const auto call = [&](size_t which, const at::Tensor& instead, const SsdOptions& options = {},
                        const Segments& segments = {}) {
    Tensors given = in;
    given[which] = instead;
    ssd(given[0], given[1], given[2], given[3], {p[0], p[1], p[2]}, given[4], segments, options);
  };
  expect_error([&] { call(0, in[0][0]); }, "ssd: x must be [B, T, H, P] with at least one token");
  expect_error([&] { call(1, in[1].narrow(1, 0, 4)); },
               "ssd: dt must be [B, T, H], a time step for each token and head of x");
  expect_error([&] { call(2, in[2].narrow(2, 0, 1)); },
               "ssd: b and c must be [B, T, G, N], of the B and T of x");
  const at::Tensor three = random_normal({2, 5, 3, 6}, "b");
  expect_error(
      [&] {
        ssd(in[0], in[1], three, three, {p[0], p[1], p[2]}, {}, {}, {});
      },
      "ssd: 3 groups do not divide 4 heads");
  expect_error([&] { call(4, in[4].transpose(2, 3)); }, "ssd: the state must be [B, H, N, P]");
  expect_error([&] { call(0, in[0], {.chunk = 0}); },
               "ssd: chunk 0 is not allowed, must be at least 1");
  expect_error([&] { call(0, in[0], {}, some_segments(2, 9)); },
               "ssd: the segments must be [B, T], as x is");
  expect_error([&] { call(1, in[1].to(at::kFloat)); }, "ssd: x, dt, b and c differ in dtype");
  const Parameter narrow = parameter_of(random_normal({3}, "w")),
                  single = parameter_of(random_normal({4}, "w").to(at::kFloat));
  expect_error(
      [&] {
        ssd(in[0], in[1], in[2], in[3], {narrow, p[1], p[2]}, {}, {}, {});
      },
      "ssd: A_log, D and dt_bias must be [H], with the 4 heads of x");
  expect_error(
      [&] {
        ssd(in[0], in[1], in[2], in[3], {p[0], single, p[2]}, {}, {}, {});
      },
      "ssd: A_log, D and dt_bias must be Double on cpu");
}

// By Frobenius norms: single sums of bfloat16 products may cancel.
class SsdGpuTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void expect_close_to_reference(const Shape& s, RetentionForm form, bool documents) const {
    SCOPED_TRACE(testing::Message() << "T " << s.seq_len << " H " << s.heads << " P " << s.dim
                                    << " G " << s.groups << " N " << s.d_state);
    const Segments segments = documents ? some_segments(s.batch, s.seq_len) : Segments{};
    Segments there = segments;
    for (at::Tensor* x : {&there.document, &there.start, &there.position})
      if (x->defined()) *x = x->to(gpu_);
    Tensors given, exact, w, exact_w;
    for (const at::Tensor& x : inputs(s)) {
      const bool is_state = given.size() == 4;
      given.push_back(x.to(gpu_, is_state ? at::kFloat : GetParam()) * (is_state ? 1.0 : 0.5));
      exact.push_back(given.back().to(at::kCPU, at::kDouble));
    }
    for (const at::Tensor& x : weights(s.heads)) {
      w.push_back(x.to(gpu_, at::kFloat));
      exact_w.push_back(w.back().to(at::kCPU, at::kDouble).requires_grad_());
    }
    const OpResult got = run_op(op({.form = form}, there), given, w);
    for (const at::Tensor& x : exact) x.requires_grad_();
    const Tensors want = reference({}, segments)(exact, exact_w);
    Tensors arriving;
    for (size_t i = 0; i < want.size(); ++i)
      arriving.push_back(random_normal(want[i].sizes(), "cotangent " + std::to_string(i))
                             .to(got.outputs[i].scalar_type())
                             .to(at::kDouble));
    torch::autograd::backward(want, arriving);
    // Gradients of decays are running differences of products: of bfloat16 operands, or, in
    // float32, one running sum over the document, of terms that cancel: an error of at most half of
    // 2^-23 for each of n roundings, of sums up to 4 times what remains (1.8e-4 measured at 1,100
    // tokens).
    const double float32_sum =
        documents ? 1e-4 : std::max(1e-4, 4 * static_cast<double>(s.seq_len) * 0x1p-24);
    const auto compare = [&](const char* name, size_t i, const at::Tensor& a, const at::Tensor& b,
                             bool of_decay = false) {
      const double error =
          ((a.detach().to(at::kCPU, at::kDouble) - b).norm() / b.norm()).item<double>();
      EXPECT_LT(error, GetParam() == at::kFloat ? of_decay ? float32_sum : 1e-4
                       : of_decay               ? 5e-2
                                                : 2e-2)
          << name << " " << i;
    };
    for (size_t i = 0; i < want.size(); ++i) compare("output", i, got.outputs[i], want[i].detach());
    for (size_t i = 0; i < exact.size(); ++i)
      compare("gradient of input", i, got.input_grads[i], exact[i].grad(), /*of_decay=*/i == 1);
    for (size_t i = 0; i < exact_w.size(); ++i)
      compare("gradient of weight", i, got.weight_grads[i], exact_w[i].grad(), /*of_decay=*/i != 1);
  }
  const at::Device gpu_ = pick_device("cuda");
};
INSTANTIATE_TEST_SUITE_P(Types, SsdGpuTest, ::testing::Values(at::kFloat, at::kBFloat16));

// Mamba-2's heads of 64 with states of 64, 128 and 256, odd widths, several groups.
TEST_P(SsdGpuTest, EqualsTheReferenceAtAnyShape) {
  for (const Shape& s :
       {Shape{2, 70, 4, 64, 1, 64}, Shape{2, 70, 4, 64, 1, 128}, Shape{1, 130, 4, 64, 2, 256},
        Shape{1, 33, 24, 64, 1, 128}, Shape{2, 40, 6, 24, 3, 40}, Shape{2, 35, 3, 7, 1, 5},
        Shape{2, 257, 10, 64, 2, 64}, Shape{1, 384, 5, 64, 1, 128}})
    for (const RetentionForm form :
         {RetentionForm::kChunk, RetentionForm::kRecurrent, RetentionForm::kParallel})
      for (const bool documents : {false, true}) expect_close_to_reference(s, form, documents);
}

TEST_P(SsdGpuTest, EqualsTheReferenceOverSegmentsOfTime) {
  expect_close_to_reference({1, 1100, 2, 64, 1, 128}, RetentionForm::kChunk, true);
  // One document: float32's gradients of decays are one running sum over all of it (ssd.h), here of
  // terms that cancel; in bfloat16 they are sums within chunks.
  if (GetParam() == at::kBFloat16)
    expect_close_to_reference({1, 1100, 2, 64, 1, 128}, RetentionForm::kChunk, false);
}

TEST_P(SsdGpuTest, OneTokenAfterAState) {
  expect_close_to_reference({5, 1, 24, 64, 1, 128}, RetentionForm::kRecurrent, false);
}

TEST_P(SsdGpuTest, TwoRunsAgreeToTheBit) {
  Tensors given, w;
  for (const at::Tensor& x : inputs({2, 300, 24, 64, 1, 128}, false))
    given.push_back(x.to(gpu_, GetParam()));
  for (const at::Tensor& x : weights(24)) w.push_back(x.to(gpu_, at::kFloat));
  const OpResult once = run_op(op(), given, w), again = run_op(op(), given, w);
  EXPECT_TRUE(at::equal(once.outputs[0], again.outputs[0]));
  for (size_t i = 0; i < once.input_grads.size(); ++i)
    EXPECT_TRUE(at::equal(once.input_grads[i], again.input_grads[i])) << i;
  for (size_t i = 0; i < once.weight_grads.size(); ++i)
    EXPECT_TRUE(at::equal(once.weight_grads[i], again.weight_grads[i])) << i;
}

TEST(SsdGpu, Float64TakesThePieces) {
  const Tensors in = inputs({2, 20, 4, 3, 2, 5}), w = weights(4);
  expect_equals_reference(op({.chunk = 8}), reference(), in, w, at::kDouble,
                          usual_tolerance(at::kDouble), pick_device("cuda"));
}

}  // namespace
}  // namespace ceiling
