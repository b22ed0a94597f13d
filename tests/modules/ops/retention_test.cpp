#include "modules/ops/retention/retention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "base/error.h"
#include "modules/ops/retention/reference.h"

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
      at::randn(out.o.sizes(), at::TensorOptions().dtype(at::kDouble)).to(out.o.scalar_type());
  const at::Tensor d_state = at::randn(out.state.sizes(), at::TensorOptions().dtype(at::kDouble))
                                 .to(out.state.scalar_type());
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

class RetentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(RetentionTest, OutputsStatesAndGradientsEqualTheReferenceInFloat64) {
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

TEST_P(RetentionTest, KernelsAtWorkingPrecisionEqualTheReference) {
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
    for (const int64_t seq_len : {1, 7, 8, 9, 33})
      for (const auto& [form, chunk] : {std::pair{RetentionForm::kParallel, int64_t{64}},
                                        std::pair{RetentionForm::kRecurrent, int64_t{64}},
                                        std::pair{RetentionForm::kChunk, int64_t{1}},
                                        std::pair{RetentionForm::kChunk, int64_t{8}},
                                        std::pair{RetentionForm::kChunk, int64_t{64}}})
        all.push_back({form, chunk, seq_len, documents});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Sweep, RetentionTest, ::testing::ValuesIn(cases()));

TEST(RetentionKernelTest, ThreadsDoNotChangeABit) {
  const Inputs in = make_inputs(33, at::kFloat, true);
  const auto run = [&] {
    return retention(in.q, in.k, in.v, in.log_decay, in.state, in.segments, RetentionForm::kChunk,
                     32)
        .o;
  };
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = run();
  at::set_num_threads(2);
  const at::Tensor two = run();
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one, two));
}

TEST(RetentionKernelTest, LaterTokensDoNotReachEarlierOnes) {
  Inputs in = make_inputs(33, at::kFloat, false);
  const auto run = [&] {
    return retention(in.q, in.k, in.v, in.log_decay, in.state, in.segments, RetentionForm::kChunk,
                     32)
        .o;
  };
  const at::Tensor before = run();
  in.k = in.k.clone();
  in.v = in.v.clone();
  in.k.narrow(1, 20, 13).fill_(NAN);
  in.v.narrow(1, 20, 13).fill_(NAN);
  const at::Tensor after = run();
  EXPECT_TRUE(
      at::equal(after.narrow(1, 0, 16),
                before.narrow(1, 0, 16)));  // the block of 8 before the damage, and all earlier
}

TEST(RetentionKernelTest, WrongShapesAreErrors) {
  const Inputs in = make_inputs(4, at::kFloat, false);
  EXPECT_THROW(retention(in.q, in.k.narrow(1, 0, 3), in.v, in.log_decay, in.state, {},
                         RetentionForm::kChunk, 8),
               Error);
  EXPECT_THROW(retention(in.q, in.k, in.v, in.log_decay.narrow(0, 0, 2), in.state, {},
                         RetentionForm::kChunk, 8),
               Error);
  EXPECT_THROW(retention(in.q, in.k, in.v, in.log_decay, in.state, {}, RetentionForm::kChunk, 0),
               Error);
}

}  // namespace
}  // namespace ceiling
