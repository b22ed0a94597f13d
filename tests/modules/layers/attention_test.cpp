// Attention with a window of the latest tokens. What it shares with attention over all tokens is
// tested with the architectures.
#include "modules/layers/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "tests/support/expect_close.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

constexpr int64_t kWindow = 6, kWidth = 16;

struct Layer {
  explicit Layer(int64_t window)
      : attention({.d_model = kWidth,
                   .n_heads = 2,
                   .n_kv_heads = 1,
                   .head_dim = 8,
                   .rotary_dim = 4,
                   .window = window,
                   .out_bias = true,
                   .qkv_init = init::normal(0.5),
                   .out_init = init::normal(0.5)}) {
    attention.name_parameters();
    allocate_parameters(attention, at::kDouble, 1);
  }
  // The tokens from `first` on.
  at::Tensor operator()(const at::Tensor& x, int64_t first = 0, State* state = nullptr) {
    MixContext context;
    context.position =
        at::arange(first, first + x.size(1), at::kInt).expand({x.size(0), x.size(1)});
    context.position_bound = first + x.size(1);
    return attention.forward(x, context, state);
  }
  Attention attention;
};

TEST(WindowedAttention, AStateOfConstantSizeServesAnyNumberOfTokens) {
  at::NoGradGuard no_grad;
  Layer layer(kWindow);
  const at::Tensor x = random_normal({2, 120, kWidth}, "x"), whole = layer(x);
  State state;
  std::vector<at::Tensor> pieces;
  int64_t at = 0;
  const auto take = [&](int64_t n) {
    pieces.push_back(layer(x.narrow(1, at, n), at, &state));
    at += n;
    for (const at::Tensor& held : state.tensors) EXPECT_LE(held.size(1), 2 * kWindow) << at;
  };
  for (int i = 0; i < 40; ++i) take(1);
  for (const int64_t n : {20, 3, 4, 5}) take(n);  // longer than the window, and within it
  while (at < 120) take(1);
  expect_close(at::cat(pieces, 1), whole, {.absolute = 1e-13, .relative = 1e-13});
  // Two heads of one key/value head, 8 wide, 5 tokens back, 8 bytes.
  EXPECT_EQ(layer.attention.state_bytes(120, 8), 2 * 8 * 5 * 8);
}

TEST(WindowedAttention, AWindowBeyondTheSequenceIsNone) {
  at::NoGradGuard no_grad;
  Layer windowed(30), all(kNoWindow), narrow(29);
  const at::Tensor x = random_normal({2, 30, kWidth}, "x"), want = all(x);
  EXPECT_TRUE(at::equal(windowed(x), want));
  const at::Tensor cut = narrow(x);
  EXPECT_TRUE(at::equal(cut.narrow(1, 0, 29), want.narrow(1, 0, 29)));
  EXPECT_FALSE(at::equal(cut.select(1, 29), want.select(1, 29)));
}

TEST(WindowedAttention, FlopsCountTheKeysThatAreSeen) {
  const Layer layer(4);
  // 1 + 2 + 3 + 7 x 4 keys in 10 tokens; two products of two operations over 2 heads of 8.
  EXPECT_DOUBLE_EQ(layer.attention.mixing_flops_per_token(10), 4 * 16 * 34 / 10.0);
  EXPECT_DOUBLE_EQ(layer.attention.mixing_flops_per_token(3), 4 * 16 * 6 / 3.0);
}

}  // namespace
}  // namespace ceiling
