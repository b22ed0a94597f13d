#include "modules/ops/linear_scan/linear_scan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "modules/ops/device.h"
#include "modules/ops/linear_scan/cuda.h"
#include "modules/ops/linear_scan/reference.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

struct Setting {
  int64_t batch = 2, seq_len = 19, dim = 5;
  bool state = true, documents = true;
};

Segments random_documents(const Setting& s) {
  if (!s.documents) return {};
  at::Tensor start = random_ints({s.batch, s.seq_len}, 0, 5, "start").eq(0).to(at::kInt);
  start[0][0] = 1;            // the incoming state is discarded in row 0
  start[s.batch - 1][0] = 0;  // and continued in the last one
  return make_segments(start.cumsum(1).to(at::kInt));
}

Segments on_device(Segments segments, at::Device device) {
  for (at::Tensor* x : {&segments.document, &segments.start, &segments.position})
    if (x->defined()) *x = x->to(device);
  return segments;
}

// a | b | state, and x | recurrence | input | state; lambda | biases.
Tensors scan_inputs(const Setting& s) {
  Tensors in = {random_normal({s.batch, s.seq_len, s.dim}, "a").sigmoid(),
                random_normal({s.batch, s.seq_len, s.dim}, "b")};
  if (s.state) in.push_back(random_normal({s.batch, s.dim}, "state"));
  return in;
}
Tensors lru_inputs(const Setting& s) {
  Tensors in = {random_normal({s.batch, s.seq_len, s.dim}, "x"),
                random_normal({s.batch, s.seq_len, s.dim}, "recurrence", 1, 2),
                random_normal({s.batch, s.seq_len, s.dim}, "input", 1, 2)};
  if (s.state) in.push_back(random_normal({s.batch, s.dim}, "state"));
  return in;
}
// lambda between about -7 and 1: decays at r = 1 between 0.992 and 3e-5.
Tensors lru_weights(const Setting& s) {
  return {random_normal({s.dim}, "lambda", 1, 2) - 3, random_normal({s.dim}, "recurrence_bias"),
          random_normal({s.dim}, "input_bias")};
}

at::Tensor state_of(const Tensors& in, size_t inputs) {
  return in.size() > inputs ? in[inputs] : at::Tensor();
}

Op scan_op(const Segments& segments) {
  return [segments](const Tensors& in, const std::vector<Parameter>&) {
    const auto out =
        linear_scan(in[0], in[1], state_of(in, 2), on_device(segments, in[0].device()));
    return Tensors{out.h, out.state};
  };
}
Reference scan_reference(const Segments& segments) {
  return [segments](const Tensors& in, const Tensors&) {
    const auto out = linear_scan_reference(in[0], in[1], state_of(in, 2), segments);
    return Tensors{out.h, out.state};
  };
}
Op lru_op(const Segments& segments) {
  return [segments](const Tensors& in, const std::vector<Parameter>& p) {
    const auto out = rg_lru(in[0], in[1], in[2], {p[0], p[1], p[2]}, state_of(in, 3),
                            on_device(segments, in[0].device()));
    return Tensors{out.h, out.state};
  };
}
Reference lru_reference(const Segments& segments) {
  return [segments](const Tensors& in, const Tensors& w) {
    const auto out =
        rg_lru_reference(in[0], in[1], in[2], w[0], w[1], w[2], state_of(in, 3), segments);
    return Tensors{out.h, out.state};
  };
}

// bfloat16: the state before is read as rounded, and gradients of parameters are sums over time of
// products with it.
double tolerance(at::ScalarType dtype) {
  return usual_tolerance(dtype) * (dtype == at::kBFloat16 ? 2 : 1);
}

class LinearScanTest : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, LinearScanTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST_P(LinearScanTest, EqualsTheReference) {
  for (const Setting& s : {Setting{}, Setting{2, 1, 3}, Setting{1, 33, 64}, Setting{2, 70, 131},
                           Setting{2, 8, 3, false}, Setting{2, 17, 65, true, false},
                           Setting{2, 17, 16, false, false}}) {
    const Segments segments = random_documents(s);
    expect_equals_reference(scan_op(segments), scan_reference(segments), scan_inputs(s), {},
                            GetParam(), tolerance(GetParam()));
    expect_equals_reference(lru_op(segments), lru_reference(segments), lru_inputs(s),
                            lru_weights(s), GetParam(), tolerance(GetParam()));
  }
}

TEST_P(LinearScanTest, TakesStridedInputs) {
  const Setting s{2, 9, 33};
  const Segments segments = random_documents(s);
  Tensors scan = scan_inputs(s), lru = lru_inputs(s);
  for (Tensors* in : {&scan, &lru})
    for (at::Tensor& x : *in) x = strided_copy(x.to(GetParam()));
  expect_equals_reference(scan_op(segments), scan_reference(segments), scan, {}, GetParam(),
                          tolerance(GetParam()));
  expect_equals_reference(lru_op(segments), lru_reference(segments), lru, lru_weights(s),
                          GetParam(), tolerance(GetParam()));
}

TEST_P(LinearScanTest, IsTheSameForAnyNumberOfThreads) {
  const Setting s{3, 40, 200};
  Tensors in = lru_inputs(s), w = lru_weights(s);
  for (Tensors* list : {&in, &w})
    for (at::Tensor& x : *list) x = x.to(GetParam());
  expect_same_for_any_number_of_threads([&] {
    const OpResult r = run_op(lru_op(random_documents(s)), in, w);
    Tensors all = r.outputs;
    all.insert(all.end(), r.input_grads.begin(), r.input_grads.end());
    all.insert(all.end(), r.weight_grads.begin(), r.weight_grads.end());
    return all;
  });
}

TEST(LinearScan, GradientsEqualCentralDifferences) {
  for (const bool state : {false, true}) {
    const Setting s{2, 7, 3, state};
    const Segments segments = random_documents(s);
    expect_gradients_equal_differences(scan_op(segments), scan_inputs(s), {});
    // Decays of at most 0.99: above, the derivative of the root is bounded and no difference shows.
    Tensors w = lru_weights(s);
    w[0] = w[0].clamp_min(-4);
    Tensors in = lru_inputs(s);
    in[1] = in[1].clamp_min(-1);
    expect_gradients_equal_differences(lru_op(segments), in, w);
  }
}

TEST_P(LinearScanTest, PiecesWithCarriedStateEqualOnePassWithGradients) {
  if (GetParam() == at::kBFloat16) return;  // which rounds h between the pieces' gradients
  const Setting s{2, 41, 21, true, false};
  Tensors in = lru_inputs(s), w = lru_weights(s);
  for (Tensors* list : {&in, &w})
    for (at::Tensor& x : *list) x = x.to(GetParam());
  const auto in_pieces = [&](const std::vector<int64_t>& lengths) {
    const Op op = [&](const Tensors& x, const std::vector<Parameter>& p) {
      Tensors h;
      at::Tensor state = x[3];
      int64_t at = 0;
      for (const int64_t n : lengths) {
        const auto out = rg_lru(x[0].narrow(1, at, n), x[1].narrow(1, at, n), x[2].narrow(1, at, n),
                                {p[0], p[1], p[2]}, state, {});
        h.push_back(out.h);
        state = out.state;
        at += n;
      }
      return Tensors{at::cat(h, 1), state};
    };
    return run_op(op, in, w);
  };
  const OpResult whole = in_pieces({41}), pieces = in_pieces({1, 16, 23, 1});
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(at::equal(whole.outputs[i], pieces.outputs[i])) << i;
  for (size_t i = 0; i < 4; ++i)
    EXPECT_TRUE(at::equal(whole.input_grads[i], pieces.input_grads[i])) << i;
  for (size_t i = 0; i < 3; ++i)
    expect_close(pieces.weight_grads[i], whole.weight_grads[i].to(at::kDouble),
                 {.absolute = 1e-6, .relative = 1e-6});
}

TEST(LinearScan, ADamagedDocumentDoesNotReachTheNextOneNorTheOneBefore) {
  const Setting s{2, 30, 70, true, false};
  const Segments segments =
      make_segments(at::arange(30, at::kInt).div(10, "floor").to(at::kInt).expand({2, 30}).clone());
  const auto results = [&](bool damaged) {
    Tensors in = lru_inputs(s);
    for (at::Tensor& x : in) x = x.to(at::kFloat);
    if (damaged)
      for (size_t i = 0; i < 3; ++i) in[i].narrow(1, 10, 10).fill_(NAN);
    Tensors leaves;
    for (const at::Tensor& x : in) leaves.push_back(x.detach().requires_grad_());
    std::vector<Parameter> p;
    for (const at::Tensor& w : lru_weights(s)) p.push_back(parameter_of(w.to(at::kFloat)));
    const auto out =
        rg_lru(leaves[0], leaves[1], leaves[2], {p[0], p[1], p[2]}, leaves[3], segments);
    torch::autograd::backward({out.h.sum() + out.state.sum()}, {});
    return Tensors{out.h.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
  };
  const Tensors clean = results(false), damaged = results(true);
  for (size_t i = 0; i < clean.size(); ++i)
    for (const int64_t at : {0, 20})
      EXPECT_TRUE(at::equal(damaged[i].narrow(1, at, 10), clean[i].narrow(1, at, 10))) << i;
}

TEST(LinearScan, TheFirstTokenOfADocumentHasNoRoot) {
  const Parameter lambda = parameter_of(at::full({1}, -3.0, at::kDouble)),
                  bias = parameter_of(at::zeros({1}, at::kDouble));
  const at::Tensor x = at::full({1, 2, 1}, 2.0, at::kDouble),
                   gate = at::zeros({1, 2, 1}, at::kDouble);
  const auto h = rg_lru(x, gate, gate, {lambda, bias, bias}, {}, {}).h;
  const double a = std::exp(-8 * 0.5 * std::log1p(std::exp(-3.0)));
  EXPECT_NEAR(h[0][0][0].item<double>(), 1, 1e-15);
  EXPECT_NEAR(h[0][1][0].item<double>(), a + std::sqrt(1 - a * a), 1e-14);
}

// specs: a known sequence of width 1, computed by hand in float64.
TEST(LinearScan, GivesTheKnownSequence) {
  const at::Tensor t = at::arange(5, at::kDouble), u = (0.7 * t + 0.2).sin().view({1, 5, 1});
  const Parameter lambda = parameter_of(at::full({1}, -3.0, at::kDouble)),
                  recurrence_bias = parameter_of(at::full({1}, 0.1, at::kDouble)),
                  input_bias = parameter_of(at::full({1}, 0.2, at::kDouble));
  const auto h = rg_lru(u, 0.5 * u, -0.3 * u, {lambda, recurrence_bias, input_bias}, {}, {}).h;
  const at::Tensor want =
      at::tensor({0.10629649, 0.32156586, 0.54849264, 0.65897322, 0.57832914}, at::kDouble);
  expect_close(h.flatten(), want, {.absolute = 1e-8});
}

// lambda = -12: a is 1 - 5e-5 r, whose square float32 rounds to few bits.
TEST(LinearScan, SlowAndSaturatedChannelsKeepFloat32Accuracy) {
  Setting s{1, 500, 6, false, false};
  Tensors in = lru_inputs(s), w = lru_weights(s);
  w[0] = at::tensor({-12.0, -9.0, -6.0, 0.0, 5.0, 30.0}, at::kDouble);
  in[1].select(1, 7).fill_(-60), in[1].select(1, 9).fill_(60), in[2].select(1, 11).fill_(-200);
  expect_equals_reference(lru_op({}), lru_reference({}), in, w, at::kFloat,
                          usual_tolerance(at::kFloat));
}

TEST(LinearScan, TwoBackwardsAddUp) {
  const Setting s;
  std::vector<Parameter> p;
  for (const at::Tensor& w : lru_weights(s)) p.push_back(parameter_of(w));
  Tensors in = lru_inputs(s);
  const auto pass = [&] {
    const auto out =
        rg_lru(in[0].detach().requires_grad_(), in[1], in[2], {p[0], p[1], p[2]}, in[3], {});
    torch::autograd::backward({out.h.sum()}, {});
  };
  pass();
  Tensors once;
  for (const Parameter& parameter : p) once.push_back(parameter.grad.clone());
  pass();
  for (size_t i = 0; i < p.size(); ++i) EXPECT_TRUE(at::equal(p[i].grad, 2 * once[i]));
}

TEST(LinearScan, WrongArgumentsAreErrors) {
  const Setting s;
  const Tensors in = lru_inputs(s);
  std::vector<Parameter> p;
  for (const at::Tensor& w : lru_weights(s)) p.push_back(parameter_of(w));
  p[2].name = "bias";
  const auto says = [&](const std::function<void(Tensors&, Segments&)>& spoil,
                        const std::string& message) {
    Tensors bad = in;
    Segments segments;
    spoil(bad, segments);
    expect_error(
        [&] {
          rg_lru(bad[0], bad[1], bad[2], {p[0], p[1], p[2]}, bad[3], segments);
        },
        message);
  };
  says([](Tensors& x, Segments&) { x[1] = x[1].narrow(1, 0, 3); },
       "rg_lru: all inputs must be [B, T, D], of one shape");
  says(
      [](Tensors& x, Segments&) {
        for (size_t i = 0; i < 3; ++i) x[i] = x[i].narrow(1, 0, 0);
      },
      "rg_lru: a sequence of no tokens");
  says([](Tensors& x, Segments&) { x[2] = x[2].to(at::kFloat); },
       "rg_lru: the inputs differ in dtype");
  says([](Tensors& x, Segments&) { x[3] = x[3].narrow(1, 0, 2); },
       "rg_lru: the state must be [2, 5]");
  says(
      [](Tensors&, Segments& g) {
        g = make_segments(at::ones({2, 3}, at::kInt));
      },
      "rg_lru: the segments must be [2, 19], as the inputs are");
  says(
      [](Tensors& x, Segments&) {
        for (size_t i = 0; i < 3; ++i) x[i] = x[i].narrow(2, 0, 4);
        x[3] = x[3].narrow(1, 0, 4);
      },
      "rg_lru: weight must hold 4 numbers, one for each channel");
  expect_error([&] { linear_scan(in[0].to(at::kHalf), in[1].to(at::kHalf), {}, {}); },
               "linear_scan: Half is not supported; use float64, float32 or bfloat16");
}

// Lengths around the tile's, long rows whose time is cut, widths of pairs and of single channels.
class LinearScanGpuTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  // In bfloat16 the backward pass reads h as it was written, rounded: one gradient of 1,254,400 was
  // 0.00182 off, where twice the CPU's tolerance allows 0.00171.
  static double tolerance_there() {
    return (GetParam() == at::kBFloat16 ? 3 : 2) * tolerance(GetParam());
  }
  const at::Device gpu_ = pick_device("cuda");
};
INSTANTIATE_TEST_SUITE_P(Types, LinearScanGpuTest, ::testing::Values(at::kFloat, at::kBFloat16));

TEST_P(LinearScanGpuTest, EqualsTheReference) {
  for (const Setting& s :
       {Setting{2, 1, 64}, Setting{2, 7, 3}, Setting{1, 63, 64}, Setting{2, 64, 130},
        Setting{2, 65, 66}, Setting{2, 200, 33, false}, Setting{1, 2000, 64, true, false},
        Setting{2, 1500, 70, false}, Setting{70, 70, 256}}) {
    const Segments segments = random_documents(s);
    expect_equals_reference(scan_op(segments), scan_reference(segments), scan_inputs(s), {},
                            GetParam(), tolerance_there(), gpu_);
    expect_equals_reference(lru_op(segments), lru_reference(segments), lru_inputs(s),
                            lru_weights(s), GetParam(), tolerance_there(), gpu_);
  }
}

TEST_P(LinearScanGpuTest, TakesStridedInputs) {
  const Setting s{2, 70, 33};
  Tensors in = lru_inputs(s);
  for (at::Tensor& x : in) x = strided_copy(x.to(gpu_, GetParam()));
  const Segments segments = random_documents(s);
  expect_equals_reference(lru_op(segments), lru_reference(segments), in, lru_weights(s), GetParam(),
                          tolerance_there(), gpu_);
}

TEST_P(LinearScanGpuTest, TwoRunsAgreeToTheBit) {
  const Setting s{2, 3000, 130};
  Tensors in = lru_inputs(s), w = lru_weights(s);
  for (Tensors* list : {&in, &w})
    for (at::Tensor& x : *list) x = x.to(gpu_, GetParam());
  const Op op = lru_op(random_documents(s));
  const OpResult once = run_op(op, in, w), again = run_op(op, in, w);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(at::equal(once.outputs[i], again.outputs[i]));
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(once.input_grads[i], again.input_grads[i]));
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(at::equal(once.weight_grads[i], again.weight_grads[i]));
}

TEST_P(LinearScanGpuTest, ADamagedDocumentDoesNotReachTheNextOne) {
  const Setting s{1, 900, 64, true, false};
  const Segments segments =
      make_segments(at::arange(900, at::kInt).ge(413).to(at::kInt).unsqueeze(0));
  const auto results = [&](bool damaged) {
    Tensors in = lru_inputs(s), w = lru_weights(s);
    for (Tensors* list : {&in, &w})
      for (at::Tensor& x : *list) x = x.to(gpu_, GetParam());
    if (damaged) {
      for (size_t i = 0; i < 3; ++i) in[i].narrow(1, 0, 413).fill_(NAN);
      in[3].fill_(INFINITY);
    }
    return run_op(lru_op(segments), in, w);
  };
  const OpResult clean = results(false), damaged = results(true);
  EXPECT_TRUE(
      at::equal(damaged.outputs[0].narrow(1, 413, 487), clean.outputs[0].narrow(1, 413, 487)));
  EXPECT_TRUE(at::equal(damaged.outputs[1], clean.outputs[1]));
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(at::equal(damaged.input_grads[i].narrow(1, 413, 487),
                          clean.input_grads[i].narrow(1, 413, 487)));
}

TEST(LinearScanGpu, Float64TakesTheReference) {
  const Setting s{2, 9, 6};
  const Segments segments = random_documents(s);
  expect_equals_reference(
      lru_op(segments),
      [&](const Tensors& in, const Tensors& w) { return lru_reference(segments)(in, w); },
      lru_inputs(s), lru_weights(s), at::kDouble, 1e-12, pick_device("cuda"));
}

TEST(LinearScanGpu, IndicesPassTwoToThe31) {  // 4.3 GB a tensor
  const auto options = at::dtype(at::kBFloat16).device(pick_device("cuda"));
  constexpr int64_t kDim = 2048, kBatch = 16,
                    kLen = (int64_t{1} << 31) / kDim / kBatch + kGpuScanTile;
  const at::Tensor a = at::full({kBatch, kLen, kDim}, 0.5, options),
                   b = at::randn({kBatch, kLen, kDim}, options);
  const at::Tensor h = linear_scan(a, b, {}, {}).h;
  // 0.5^64 of what came before is below a rounding: the last row's end alone.
  const at::Tensor end_a = a.narrow(0, kBatch - 1, 1).narrow(1, kLen - 128, 128),
                   end_b = b.narrow(0, kBatch - 1, 1).narrow(1, kLen - 128, 128);
  const at::Tensor alone = linear_scan(end_a, end_b, {}, {}).h;
  EXPECT_TRUE(
      at::equal(h.narrow(0, kBatch - 1, 1).narrow(1, kLen - 32, 32), alone.narrow(1, 96, 32)));
}

}  // namespace
}  // namespace ceiling
