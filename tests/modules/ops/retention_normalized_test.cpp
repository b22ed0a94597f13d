// torchscale's normalised retention against its definition, written out here pair by pair. The
// authors' own numbers are in tests/golden/retnet_torchscale.
#include "modules/ops/retention/normalized.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

constexpr int64_t kBatch = 2, kHeads = 2, kKey = 5, kValue = 7;

at::Tensor decays() { return at::tensor({-0.03, -0.5}, at::kDouble); }

// Scores large enough that the clamped divisor is at work in most rows.
Tensors inputs(int64_t seq_len) {
  return {random_normal({kBatch, seq_len, kHeads, kKey}, "q"),
          random_normal({kBatch, seq_len, kHeads, kKey}, "k"),
          random_normal({kBatch, seq_len, kHeads, kValue}, "v")};
}

Segments documents(const std::vector<int>& row) {
  return make_segments(
      at::tensor(row, at::kInt).expand({kBatch, static_cast<int64_t>(row.size())}).contiguous());
}

// Rows of scores over their decays' root sum, and then over their clamped absolute sum (a constant
// to autograd); documents by masking pairs.
at::Tensor by_definition(const Tensors& x, const std::vector<int>& document) {
  const int64_t seq_len = x[0].size(1);
  std::vector<at::Tensor> rows;
  for (int64_t t = 0; t < seq_len; ++t) {
    at::Tensor weight = at::zeros({kHeads, seq_len}, at::kDouble);
    for (int64_t s = 0; s <= t; ++s)
      if (document[static_cast<size_t>(s)] == document[static_cast<size_t>(t)])
        weight.select(1, s).copy_((decays() * static_cast<double>(t - s)).exp());
    weight = weight / weight.sum(-1, true).sqrt();
    const at::Tensor score =
        at::einsum("bhk,bshk->bhs", {x[0].select(1, t), x[1]}) * weight.unsqueeze(0);
    const at::Tensor divisor = score.detach().abs().sum(-1, true).clamp(1, 5e4);
    rows.push_back(at::einsum("bhs,bshv->bhv", {score / divisor, x[2]}));
  }
  return at::stack(rows, 1);
}

TEST(NormalizedRetentionTest, ParallelFormIsItsDefinitionWithADetachedDivisor) {
  for (const std::vector<int>& document :
       {std::vector<int>(11, 0), std::vector<int>{0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 4}}) {
    const auto got = run_op(
        [&](const Tensors& x, const std::vector<Parameter>&) {
          return Tensors{
              normalized_retention_parallel(x[0], x[1], x[2], decays(), documents(document))};
        },
        inputs(11), {});
    const auto want =
        run_op([&](const Tensors& x,
                   const std::vector<Parameter>&) { return Tensors{by_definition(x, document)}; },
               inputs(11), {});
    expect_close(got.outputs[0], want.outputs[0], {1e-12, 1e-12});
    for (size_t i = 0; i < 3; ++i)
      expect_close(got.input_grads[i], want.input_grads[i], {1e-12, 1e-12});
  }
}

NormalizedRetentionOutput recurrent(const Tensors& x, const NormalizedRetentionState& state,
                                    const Segments& segments = {}) {
  return normalized_retention_recurrent(x[0], x[1], x[2], decays(), state, segments, 4);
}

TEST(NormalizedRetentionTest, RecurrentFormDividesByTheRootOfTheDecaysSum) {
  const Tensors x = inputs(9);
  const auto got = recurrent(x, {});
  at::Tensor s = at::zeros({kBatch, kHeads, kKey, kValue}, at::kDouble);
  at::Tensor c = at::zeros({kHeads}, at::kDouble);
  const at::Tensor gamma = decays().exp();
  for (int64_t t = 0; t < 9; ++t) {
    s = s * gamma.view({kHeads, 1, 1}) +
        x[1].select(1, t).unsqueeze(-1) * x[2].select(1, t).unsqueeze(-2);
    c = c * gamma + 1;
    const at::Tensor o = at::matmul(x[0].select(1, t).unsqueeze(-2), s).squeeze(-2);
    expect_close(got.o.select(1, t), o / c.sqrt().view({kHeads, 1}), {1e-12, 1e-12});
  }
  expect_close(got.state.scale, c.expand({kBatch, kHeads}), {1e-12, 1e-12});
  expect_close(got.state.kv, s / c.sqrt().view({kHeads, 1, 1}), {1e-12, 1e-12});
}

TEST(NormalizedRetentionTest, RecurrentFormInPiecesEqualsOnePassWithGradients) {
  const auto in_pieces = [](const std::vector<int64_t>& lengths) {
    return run_op(
        [&](const Tensors& x, const std::vector<Parameter>&) {
          NormalizedRetentionState state;
          Tensors o;
          int64_t at = 0;
          for (const int64_t n : lengths) {
            const auto out = recurrent(
                {x[0].narrow(1, at, n), x[1].narrow(1, at, n), x[2].narrow(1, at, n)}, state);
            state = out.state;
            o.push_back(out.o);
            at += n;
          }
          return Tensors{at::cat(o, 1), state.kv};
        },
        inputs(13), {});
  };
  const OpResult whole = in_pieces({13}), pieces = in_pieces({1, 5, 6, 1});
  for (size_t i = 0; i < 2; ++i) expect_close(pieces.outputs[i], whole.outputs[i], {1e-11, 1e-11});
  for (size_t i = 0; i < 3; ++i)
    expect_close(pieces.input_grads[i], whole.input_grads[i], {1e-11, 1e-11});
}

TEST(NormalizedRetentionTest, RecurrentDocumentsEqualSeparateCalls) {
  const Tensors x = inputs(11);
  const auto part = [&](int64_t at, int64_t n) {
    return Tensors{x[0].narrow(1, at, n), x[1].narrow(1, at, n), x[2].narrow(1, at, n)};
  };
  const auto before = recurrent(part(0, 4), {}).state;
  const auto packed = recurrent(part(4, 7), before, documents({0, 0, 1, 1, 1, 2, 2}));
  const auto tail = recurrent(part(9, 2), {});
  expect_close(packed.o,
               at::cat({recurrent(part(4, 2), before).o, recurrent(part(6, 3), {}).o, tail.o}, 1),
               {1e-12, 1e-12});
  expect_close(packed.state.kv, tail.state.kv, {1e-12, 1e-12});
  expect_close(packed.state.scale, tail.state.scale, {1e-12, 1e-12});
}

// Within the first chunk no state has entered, and the chunk form is the parallel one (below its
// upper clamp).
TEST(NormalizedRetentionTest, ChunkFormOfOneChunkIsTheParallelForm) {
  for (const int64_t chunk : {11, 16}) {
    const auto got = run_op(
        [&](const Tensors& x, const std::vector<Parameter>&) {
          return Tensors{normalized_retention_chunk(x[0], x[1], x[2], decays(), {}, chunk)};
        },
        inputs(11), {});
    const auto want = run_op(
        [&](const Tensors& x, const std::vector<Parameter>&) {
          return Tensors{normalized_retention_parallel(x[0], x[1], x[2], decays(), {})};
        },
        inputs(11), {});
    expect_close(got.outputs[0], want.outputs[0], {1e-12, 1e-12});
    for (size_t i = 0; i < 3; ++i)
      expect_close(got.input_grads[i], want.input_grads[i], {1e-12, 1e-12});
  }
}

// A row of the chunk form is plain retention times a positive number, which the head norm after it
// removes but for epsilon.
TEST(NormalizedRetentionTest, EveryFormIsPlainRetentionUpToAFactorPerTokenAndHead) {
  const Tensors x = inputs(23);
  const at::Tensor plain =
      retention(x[0], x[1], x[2], decays(), {}, {}, RetentionForm::kRecurrent, 1).o;
  const auto direction = [](const at::Tensor& o) { return o / o.norm(2, {-1}, true); };
  for (const at::Tensor& o :
       {recurrent(x, {}).o, normalized_retention_parallel(x[0], x[1], x[2], decays(), {}),
        normalized_retention_chunk(x[0], x[1], x[2], decays(), {}, 4)})
    expect_close(direction(o), direction(plain), {1e-11, 0});
}

TEST(NormalizedRetentionTest, ChunkFormRefusesDocuments) {
  const Tensors x = inputs(3);
  expect_error(
      [&] {
        normalized_retention_chunk(x[0], x[1], x[2], decays(), documents({0, 1, 1}), 2);
      },
      "retention: the torchscale dialect's chunk form knows no document boundaries; set "
      "model.form: "
      "recurrent or parallel, or data.cross_document: allow");
}

}  // namespace
}  // namespace ceiling
