#include "modules/ops/retention/retention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "modules/ops/device.h"
#include "modules/ops/retention/reference.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

struct Inputs {
  at::Tensor q, k, v, log_decay, state;
  Segments segments;
};

Inputs make_inputs(int64_t seq_len, at::ScalarType dtype, bool documents, bool per_token = false) {
  at::manual_seed(7);
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const int64_t batch = 2, heads = 3, k_dim = 5, v_dim = 19;
  Inputs in;
  in.q = at::randn({batch, seq_len, heads, k_dim}, options).to(dtype);
  in.k = at::randn({batch, seq_len, heads, k_dim}, options).to(dtype);
  // A slice of a wider tensor, as the fused projection leaves it.
  in.v = at::randn({batch, seq_len, heads, v_dim + 3}, options).to(dtype).narrow(3, 2, v_dim);
  in.log_decay =
      per_token ? -at::rand({batch, seq_len, heads}, options) : -at::rand({heads}, options) * 0.5;
  in.state = at::randn({batch, heads, k_dim, v_dim}, options)
                 .to(dtype == at::kDouble ? at::kDouble : at::kFloat);
  if (documents) {
    at::Tensor start = at::rand({batch, seq_len}, options).lt(0.2);
    start[0][0] = true;   // the incoming state is discarded in row 0
    start[1][0] = false;  // and continued in row 1
    in.segments = make_segments(start.to(at::kInt).cumsum(1).to(at::kInt));
  }
  return in;
}

std::vector<at::Tensor> outputs_and_gradients(
    const Inputs& in, const std::function<RetentionOutput(const Inputs&)>& f, bool decay_gradient) {
  Inputs leaf = in;
  for (at::Tensor* x : {&leaf.q, &leaf.k, &leaf.v, &leaf.state}) *x = x->detach().requires_grad_();
  leaf.log_decay = in.log_decay.detach().requires_grad_(decay_gradient);
  const RetentionOutput out = f(leaf);
  at::manual_seed(11);
  const at::Tensor d_out =
      at::randn(out.o.sizes(), at::TensorOptions().dtype(at::kDouble)).to(out.o.options());
  const at::Tensor d_state =
      at::randn(out.state.sizes(), at::TensorOptions().dtype(at::kDouble)).to(out.state.options());
  torch::autograd::variable_list wanted = {leaf.q, leaf.k, leaf.v, leaf.state};
  if (decay_gradient) wanted.push_back(leaf.log_decay);
  std::vector<at::Tensor> all = {out.o.detach(), out.state.detach()};
  for (const at::Tensor& grad : torch::autograd::grad({out.o, out.state}, wanted, {d_out, d_state}))
    all.push_back(grad);
  return all;
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() /
          b.to(at::kDouble).norm().clamp_min(1e-30))
      .item<double>();
}

struct Case {
  RetentionForm form;
  int64_t chunk, seq_len;
  bool documents;
};

class RetentionFormTest : public ::testing::TestWithParam<Case> {};

TEST_P(RetentionFormTest, OutputsStatesAndGradientsEqualTheReferenceInFloat64) {
  const Case c = GetParam();
  for (const bool per_token : {false, true}) {
    const Inputs in = make_inputs(c.seq_len, at::kDouble, c.documents, per_token);
    const auto want = outputs_and_gradients(
        in,
        [](const Inputs& x) {
          return retention_reference(x.q, x.k, x.v, x.log_decay, x.state, x.segments);
        },
        per_token);
    const auto got = outputs_and_gradients(
        in,
        [&](const Inputs& x) {
          return retention(x.q, x.k, x.v, x.log_decay, x.state, x.segments, c.form, c.chunk);
        },
        per_token);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_LT((got[i] - want[i]).abs().max().item<double>(), 1e-10)
          << "output " << i << " per token " << per_token;
  }
}

TEST(RetentionReferenceTest, TokenByTokenAndByPairsAreTheSame) {
  for (const int64_t seq_len : {1, 2, 37})
    for (const bool documents : {false, true})
      for (const bool per_token : {false, true})
        for (const bool state : {false, true}) {
          Inputs in = make_inputs(seq_len, at::kDouble, documents, per_token);
          const auto by = [&](auto reference) {
            return outputs_and_gradients(
                in,
                [&](const Inputs& x) {
                  return reference(x.q, x.k, x.v, x.log_decay, state ? x.state : 0 * x.state,
                                   x.segments);
                },
                per_token);
          };
          const auto want = by(retention_reference), got = by(retention_reference_by_pairs);
          ASSERT_EQ(got.size(), want.size());
          for (size_t i = 0; i < got.size(); ++i)
            EXPECT_LT((got[i] - want[i]).abs().max().item<double>(), 1e-11)
                << "output " << i << " T " << seq_len << documents << per_token << state;
        }
}

TEST_P(RetentionFormTest, KernelsAtWorkingPrecisionEqualTheReference) {
  const Case c = GetParam();
  // fp32: rounding of short sums; bf16: inputs and outputs are rounded to 8 bits, so 2^-8 with some
  // accumulation.
  for (const auto& [dtype, bound] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kBFloat16, 1e-2}}) {
    const Inputs in = make_inputs(c.seq_len, dtype, c.documents);
    Inputs wide = in;
    for (at::Tensor* x : {&wide.q, &wide.k, &wide.v, &wide.state}) *x = x->to(at::kDouble);
    const auto want = outputs_and_gradients(
        wide,
        [](const Inputs& x) {
          return retention_reference(x.q, x.k, x.v, x.log_decay, x.state, x.segments);
        },
        false);
    const auto got = outputs_and_gradients(
        in,
        [&](const Inputs& x) {
          return retention(x.q, x.k, x.v, x.log_decay, x.state, x.segments, c.form, c.chunk);
        },
        false);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_LT(relative_difference(got[i], want[i]), bound)
          << "output " << i << " " << c10::toString(dtype);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool documents : {false, true})
    for (const int64_t seq_len : {1, 7, 8, 9, 16, 17, 33, 67})
      for (const auto& [form, chunk] : {std::pair{RetentionForm::kParallel, int64_t{64}},
                                        std::pair{RetentionForm::kRecurrent, int64_t{64}},
                                        std::pair{RetentionForm::kChunk, int64_t{1}},
                                        std::pair{RetentionForm::kChunk, int64_t{7}},
                                        std::pair{RetentionForm::kChunk, int64_t{64}}})
        all.push_back({form, chunk, seq_len, documents});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Sweep, RetentionFormTest, ::testing::ValuesIn(cases()));

constexpr RetentionForm kForms[] = {RetentionForm::kParallel, RetentionForm::kChunk,
                                    RetentionForm::kRecurrent};

RetentionOutput run(const Inputs& in, RetentionForm form, int64_t chunk = 8) {
  return retention(in.q, in.k, in.v, in.log_decay, in.state, in.segments, form, chunk);
}

Inputs part(const Inputs& in, int64_t begin, int64_t n, const at::Tensor& state) {
  return {in.q.narrow(1, begin, n),
          in.k.narrow(1, begin, n),
          in.v.narrow(1, begin, n),
          in.log_decay.dim() == 3 ? in.log_decay.narrow(1, begin, n) : in.log_decay,
          state,
          {}};
}

TEST(RetentionTest, GradientsEqualCentralDifferences) {
  for (const RetentionForm form : kForms)
    for (const bool per_token : {false, true}) {
      const Inputs in = make_inputs(9, at::kDouble, true, per_token);
      expect_gradients_equal_differences(
          [&](const Tensors& x, const std::vector<Parameter>&) {
            const auto out = retention(x[0], x[1], x[2], x[4], x[3], in.segments, form, 4);
            return Tensors{out.o, out.state};
          },
          {in.q, in.k, in.v, in.state, in.log_decay}, {});
    }
}

// The gradient that arrives at an intermediate state goes on into the segment before.
TEST(RetentionTest, SegmentsWithCarriedStateEqualOnePassWithGradients) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat})
    for (const RetentionForm form : kForms) {
      const Inputs in = make_inputs(75, dtype, false);
      const auto in_pieces = [&](const std::vector<int64_t>& lengths) {
        return outputs_and_gradients(
            in,
            [&](const Inputs& x) {
              Tensors o;
              at::Tensor state = x.state;
              int64_t at = 0;
              for (const int64_t n : lengths) {
                const auto out = run(part(x, at, n, state), form);
                o.push_back(out.o);
                state = out.state;
                at += n;
              }
              return RetentionOutput{at::cat(o, 1), state};
            },
            false);
      };
      const auto whole = in_pieces({75}), pieces = in_pieces({1, 33, 40, 1});
      for (size_t i = 0; i < whole.size(); ++i)
        EXPECT_LT(relative_difference(pieces[i], whole[i]), dtype == at::kDouble ? 1e-13 : 1e-6);
    }
}

TEST(RetentionTest, DocumentsEqualSeparateCalls) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat})
    for (const RetentionForm form : kForms) {
      Inputs in = make_inputs(70, dtype, false);
      std::vector<int> document;
      const std::vector<int64_t> lengths = {3, 1, 1, 27, 32, 6};
      for (size_t i = 0; i < lengths.size(); ++i)
        document.insert(document.end(), static_cast<size_t>(lengths[i]), static_cast<int>(i));
      in.segments = make_segments(at::tensor(document, at::kInt).expand({2, 70}).contiguous());
      const auto packed = run(in, form);
      at::Tensor state = in.state;
      Tensors o;
      int64_t at = 0;
      for (const int64_t n : lengths) {
        const auto alone = run(part(in, at, n, state), form);
        o.push_back(alone.o);
        at += n;
        state = at < 70 ? at::Tensor() : alone.state;
      }
      const double bound = dtype == at::kDouble ? 1e-13 : 1e-6;
      EXPECT_LT(relative_difference(packed.o, at::cat(o, 1)), bound);
      EXPECT_LT(relative_difference(packed.state, state), bound);
    }
}

TEST(RetentionTest, ADocumentThatStartsAtOnceGivesTheStateBeforeNoGradient) {
  for (const RetentionForm form : kForms)
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
      Inputs in = make_inputs(5, dtype, false);
      in.segments = make_segments(at::ones({2, 5}, at::kInt));
      const auto all = outputs_and_gradients(
          in, [&](const Inputs& x) { return run(x, form); }, false);
      EXPECT_EQ(all[5].abs().max().item<double>(), 0);
    }
}

TEST(RetentionTest, ManyTokensKeepFloat32Accuracy) {
  at::manual_seed(3);
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const int64_t seq_len = 8192;
  const Inputs in{
      at::randn({1, seq_len, 2, 16}, options),
      at::randn({1, seq_len, 2, 16}, options),
      at::randn({1, seq_len, 2, 24}, options),
      // 1 - 2^-5 and 1 - 2^-12: the second sums over the whole length.
      at::tensor({std::log1p(-std::exp2(-5.0)), std::log1p(-std::exp2(-12.0))}, options),
      {},
      {}};
  const Inputs narrow{
      in.q.to(at::kFloat), in.k.to(at::kFloat), in.v.to(at::kFloat), in.log_decay, {}, {}};
  const auto want = run(in, RetentionForm::kChunk, 64);
  for (const RetentionForm form : {RetentionForm::kChunk, RetentionForm::kRecurrent}) {
    const auto got = run(narrow, form, 64);
    EXPECT_LT(relative_difference(got.o, want.o), 2e-6);
    EXPECT_LT(relative_difference(got.state, want.state), 2e-6);
  }
}

// A decay near 0 drives states through the denormal range.
TEST(RetentionTest, StrongDecaysAreExactAndDenormalArithmeticStaysTheCallers) {
  Inputs in = make_inputs(67, at::kFloat, false);
  in.log_decay = at::tensor({-3.0, -40.0, -200.0}, at::kDouble);
  const auto got = run(in, RetentionForm::kChunk, 32);
  const auto want = retention_reference(in.q.to(at::kDouble), in.k.to(at::kDouble),
                                        in.v.to(at::kDouble), in.log_decay, in.state, {});
  EXPECT_LT(relative_difference(got.o, want.o), 1e-6);
  const volatile float smallest = 1e-38f;
  EXPECT_GT(smallest * 0.01f, 0);
}

Tensors kernel_results(const Inputs& in) {
  Tensors all = outputs_and_gradients(
      in, [](const Inputs& x) { return run(x, RetentionForm::kChunk, 32); }, false);
  all.push_back(run(in, RetentionForm::kRecurrent).o);
  return all;
}

TEST(RetentionKernelTest, ThreadsDoNotChangeABit) {
  const Inputs many = make_inputs(33, at::kFloat, true);
  expect_same_for_any_number_of_threads([&] { return kernel_results(many); });
  // One head of one row: threads share its columns.
  Inputs one = many;
  one.q = random_normal({1, 33, 1, 24}, "q", 1, 1, at::kFloat);
  one.k = random_normal({1, 33, 1, 24}, "k", 1, 1, at::kFloat);
  one.v = random_normal({1, 33, 1, 200}, "v", 1, 1, at::kFloat);
  one.state = random_normal({1, 1, 24, 200}, "state", 1, 1, at::kFloat);
  one.log_decay = many.log_decay.narrow(0, 0, 1);
  one.segments = {};
  expect_same_for_any_number_of_threads([&] { return kernel_results(one); });
}

TEST(RetentionKernelTest, LaterTokensDoNotReachEarlierOnes) {
  for (const RetentionForm form : {RetentionForm::kChunk, RetentionForm::kRecurrent}) {
    Inputs in = make_inputs(75, at::kFloat, false);
    const at::Tensor before = run(in, form, 32).o;
    for (const int64_t cut : {1, 20, 32, 74}) {
      Inputs damaged = in;
      for (at::Tensor* x : {&damaged.q, &damaged.k, &damaged.v}) {
        *x = x->clone();
        x->narrow(1, cut, 75 - cut).fill_(NAN);
      }
      EXPECT_TRUE(at::equal(run(damaged, form, 32).o.narrow(1, 0, cut), before.narrow(1, 0, cut)))
          << "cut at " << cut;
    }
  }
}

TEST(RetentionKernelTest, ADamagedDocumentDoesNotReachTheNextOne) {
  Inputs in = make_inputs(40, at::kFloat, false);
  in.segments = make_segments(at::arange(40, at::kInt).ge(13).to(at::kInt).expand({2, 40}).clone());
  const auto clean = kernel_results(in);
  for (at::Tensor* x : {&in.q, &in.k, &in.v}) {
    *x = x->clone();
    x->narrow(1, 0, 13).fill_(NAN);
  }
  in.state = at::full_like(in.state, INFINITY);
  const auto damaged = kernel_results(in);
  for (const size_t i : {0, 2, 3, 4, 6})  // o, dq, dk, dv, o of the recurrent form
    EXPECT_TRUE(at::equal(damaged[i].narrow(1, 13, 27), clean[i].narrow(1, 13, 27))) << i;
  EXPECT_TRUE(at::equal(damaged[1], clean[1]));
}

// Inputs inside buffers of not-a-number: before, between and behind the tokens.
TEST(RetentionKernelTest, NothingOutsideTheTensorsIsRead) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t seq_len : {1, 31, 33, 65}) {
      const Inputs in = make_inputs(seq_len, dtype, true);
      const auto want = kernel_results(in);
      Inputs framed = in;
      for (at::Tensor* x : {&framed.q, &framed.k, &framed.v}) {
        at::Tensor frame = at::full({4, seq_len + 9, 5, x->size(3) + 11}, NAN, x->options());
        const at::Tensor inside =
            frame.narrow(0, 1, 2).narrow(1, 4, seq_len).narrow(2, 1, 3).narrow(3, 5, x->size(3));
        inside.copy_(*x);
        *x = inside;
      }
      const auto got = kernel_results(framed);
      for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(at::equal(got[i], want[i])) << i;
    }
}

TEST(RetentionKernelTest, AnyStridesGiveTheSameBits) {
  const Inputs in = make_inputs(33, at::kFloat, true);
  const auto want = kernel_results(in);
  Inputs strided = in;
  for (at::Tensor* x : {&strided.q, &strided.k, &strided.v, &strided.state}) *x = strided_copy(*x);
  const auto got = kernel_results(strided);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(at::equal(got[i], want[i])) << i;
}

TEST(RetentionTest, WrongArgumentsAreErrors) {
  const Inputs in = make_inputs(4, at::kFloat, false);
  const auto says = [&](const std::function<void(Inputs&)>& spoil, const std::string& message,
                        int64_t chunk = 8) {
    Inputs bad = in;
    spoil(bad);
    expect_error([&] { run(bad, RetentionForm::kChunk, chunk); }, message);
  };
  const auto nothing = [](Inputs&) {};
  says([](Inputs& x) { x.k = x.k.narrow(1, 0, 3); },
       "retention: q and k must be [B, T, H, K] and v [B, T, H, V], of equal B, T and H");
  says([](Inputs& x) { x.v = x.v.narrow(2, 0, 1); },
       "retention: q and k must be [B, T, H, K] and v [B, T, H, V], of equal B, T and H");
  says(
      [](Inputs& x) {
        for (at::Tensor* y : {&x.q, &x.k, &x.v}) *y = y->narrow(1, 0, 0);
      },
      "retention: a sequence of no tokens");
  says([](Inputs& x) { x.v = x.v.to(at::kBFloat16); }, "retention: q, k and v differ in dtype");
  says([](Inputs& x) { x.log_decay = x.log_decay.narrow(0, 0, 2); },
       "retention: log_decay must be [H] or [B, T, H]");
  says([](Inputs& x) { x.state = x.state.narrow(3, 0, 2); },
       "retention: the state must be [B, H, K, V]");
  says(
      [](Inputs& x) {
        x.segments = make_segments(at::ones({2, 3}, at::kInt));
      },
      "retention: the segments must be [B, T], as q is");
  says(nothing, "retention: chunk 0 is not allowed, must be at least 1", 0);
}

// Kernels on a GPU: all widths of tiles, and widths between them; lengths around the chunk's; one
// long row, whose time is cut into segments; carried states, documents, decays per token.
TEST(RetentionGpu, EqualsTheReferenceInFloat64) {
  const at::Device gpu = pick_device("cuda");
  struct GpuCase {
    int64_t batch, seq_len, heads, k_dim, v_dim;
    RetentionForm form = RetentionForm::kChunk;
    at::ScalarType dtype = at::kBFloat16;
  };
  const std::vector<GpuCase> gpu_cases = {
      {2, 1, 2, 64, 64},
      {2, 31, 2, 64, 64},
      {2, 32, 3, 128, 128},
      {2, 33, 3, 128, 64},
      {3, 200, 2, 128, 256},
      {2, 150, 2, 256, 512},
      {2, 65, 2, 512, 256},
      {2, 100, 2, 24, 40},
      {2, 100, 1, 136, 264},
      {1, 2000, 2, 64, 128},
      {1, 1500, 1, 256, 128},
      {1, 100, 70, 16, 16},
      {8, 40, 9, 256, 256},  // many blocks: narrow slices
      {8, 40, 9, 512, 128},
      {2, 40, 2, 128, 256, RetentionForm::kRecurrent},
      {2, 40, 2, 20, 36, RetentionForm::kRecurrent, at::kFloat},
      {2, 70, 2, 20, 36, RetentionForm::kChunk, at::kFloat},
      {2, 70, 2, 64, 64, RetentionForm::kParallel},
  };
  for (const GpuCase& c : gpu_cases)
    for (const bool documents : {false, true})
      for (const bool per_token : {false, true}) {
        at::manual_seed(5);
        const auto options = at::TensorOptions().dtype(at::kDouble);
        const auto random = [&](int64_t width) {
          return at::randn({c.batch, c.seq_len, c.heads, width}, options).to(c.dtype);
        };
        Inputs in;
        in.q = random(c.k_dim);
        in.k = random(c.k_dim) / std::sqrt(static_cast<double>(c.k_dim));
        in.v = random(c.v_dim + 8).narrow(3, 8, c.v_dim);
        in.log_decay = per_token ? -at::rand({c.batch, c.seq_len, c.heads}, options)
                                 : -at::rand({c.heads}, options) * 0.1;
        in.state = at::randn({c.batch, c.heads, c.k_dim, c.v_dim}, options).to(at::kFloat);
        if (documents)
          in.segments = make_segments(
              at::rand({c.batch, c.seq_len}, options).lt(0.03).to(at::kInt).cumsum(1).to(at::kInt));
        Inputs wide = in, there = in;
        for (at::Tensor* x : {&wide.q, &wide.k, &wide.v, &wide.state}) *x = x->to(at::kDouble);
        for (at::Tensor* x : {&there.q, &there.k, &there.v, &there.state}) *x = x->to(gpu);
        if (per_token) there.log_decay = in.log_decay.to(gpu);
        if (in.segments.any())
          for (at::Tensor* x :
               {&there.segments.document, &there.segments.start, &there.segments.position})
            *x = x->to(gpu);
        const auto want = outputs_and_gradients(
            wide,
            [](const Inputs& x) {
              return retention_reference(x.q, x.k, x.v, x.log_decay, x.state, x.segments);
            },
            per_token);
        const auto got = outputs_and_gradients(
            there,
            [&](const Inputs& x) {
              return retention(x.q, x.k, x.v, x.log_decay, x.state, x.segments, c.form, 64);
            },
            per_token);
        // Scores, states and values meet as bfloat16, 2^-9 each, and sums of them stay below that.
        const double bound = c.dtype == at::kFloat ? 1e-5 : 8e-3;
        // The decay's gradient is a running sum over time of differences of such rounded numbers.
        const double decay_bound = bound * std::sqrt(static_cast<double>(c.seq_len)) / 2;
        for (size_t i = 0; i < got.size(); ++i)
          EXPECT_LT(relative_difference(got[i].cpu(), want[i]), i == 6 ? decay_bound : bound)
              << "output " << i << ": B " << c.batch << " T " << c.seq_len << " H " << c.heads
              << " K " << c.k_dim << " V " << c.v_dim << " documents " << documents
              << " decay per token " << per_token;
      }
}

TEST(RetentionGpu, IsTheSameTwice) {
  const at::Device gpu = pick_device("cuda");
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(gpu);
  Inputs in;
  in.q = at::randn({2, 300, 4, 128}, options), in.k = at::randn({2, 300, 4, 128}, options);
  in.v = at::randn({2, 300, 4, 256}, options);
  in.state = at::randn({2, 4, 128, 256}, options.dtype(at::kFloat));
  in.log_decay = at::full({4}, -0.01, at::kDouble);
  const auto run = [&] {
    at::manual_seed(1);
    return outputs_and_gradients(
        in,
        [](const Inputs& x) {
          return retention(x.q, x.k, x.v, x.log_decay, x.state, x.segments, RetentionForm::kChunk,
                           64);
        },
        false);
  };
  const auto first = run(), second = run();
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(first[i].equal(second[i])) << i;
}

// 140 and 192 slices of heads for 132 SMs, whose blocks hand on states; half of the rows have a
// block for each slice.
TEST(RetentionGpu, ManyRowsGiveWhatFewGive) {
  const at::Device gpu = pick_device("cuda");
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(gpu);
  struct Rows {
    int64_t batch, seq_len, heads, k_dim, v_dim;
  };
  for (const Rows& r : {Rows{140, 130, 1, 72, 128}, Rows{16, 400, 3, 256, 512}}) {
    const at::Tensor q = at::randn({r.batch, r.seq_len, r.heads, r.k_dim}, options),
                     k = at::randn({r.batch, r.seq_len, r.heads, r.k_dim}, options) / 16,
                     v = at::randn({r.batch, r.seq_len, r.heads, r.v_dim}, options),
                     state =
                         at::randn({r.batch, r.heads, r.k_dim, r.v_dim}, options.dtype(at::kFloat)),
                     decay = at::full({r.heads}, -0.01, at::kDouble);
    const auto of_rows = [&](int64_t first, int64_t count) {
      const auto rows = [&](const at::Tensor& x) { return x.narrow(0, first, count); };
      return retention(rows(q), rows(k), rows(v), decay, rows(state), Segments(),
                       RetentionForm::kChunk, 64);
    };
    const RetentionOutput all = of_rows(0, r.batch);
    for (const int64_t first : {int64_t{0}, r.batch / 2}) {
      const RetentionOutput half = of_rows(first, r.batch / 2);
      EXPECT_TRUE(all.o.narrow(0, first, r.batch / 2).equal(half.o)) << r.batch << " " << first;
      EXPECT_TRUE(all.state.narrow(0, first, r.batch / 2).equal(half.state)) << r.batch;
    }
  }
}

}  // namespace
}  // namespace ceiling
