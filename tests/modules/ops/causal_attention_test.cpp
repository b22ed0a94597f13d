#include "modules/ops/causal_attention/causal_attention.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <optional>

#include "modules/ops/causal_attention/cudnn_attention.h"
#include "modules/ops/causal_attention/packed_attention.h"
#include "modules/ops/causal_attention/without_cudnn.h"
#include "modules/ops/device.h"
#include "modules/segments.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

struct Shape {
  int64_t batch = 2, seq_len = 70, cached = 0, heads = 4, kv_heads = 2, head_dim = 32;
};
std::string text(const Shape& s) {
  return fmt::format("B {} T {} cached {} H {} H_kv {} hd {}", s.batch, s.seq_len, s.cached,
                     s.heads, s.kv_heads, s.head_dim);
}
double scale_of(const Shape& s) { return 1 / std::sqrt(static_cast<double>(s.head_dim)); }

Tensors inputs_of(const Shape& s, double size = 1) {
  const int64_t n_keys = s.cached + s.seq_len;
  return {random_normal({s.batch, s.seq_len, s.heads, s.head_dim}, "q", 1, size),
          random_normal({s.batch, n_keys, s.kv_heads, s.head_dim}, "k", 1, size),
          random_normal({s.batch, n_keys, s.kv_heads, s.head_dim}, "v")};
}

// [B, S]: documents of 1 to 40 keys, other ones in each row; the first is -1, as for keys that an
// earlier document left in the cache.
at::Tensor documents_of(const Shape& s) {
  const int64_t n_keys = s.cached + s.seq_len;
  at::Tensor document = at::empty({s.batch, n_keys}, at::kInt);
  for (int64_t b = 0; b < s.batch; ++b) {
    int id = -1;
    int64_t left = 5 + b;
    for (int64_t j = 0; j < n_keys; ++j, --left) {
      if (left == 0) ++id, left = 1 + (7 * id + 13 * b) % 40;
      document[b][j] = id;
    }
  }
  return document;
}

Op op(const at::Tensor& document, double scale, std::optional<Bf16Product> product = {},
      int64_t window = kNoWindow) {
  return [=](const Tensors& in, const std::vector<Parameter>&) -> Tensors {
    return {causal_attention(in[0], in[1], in[2], document, scale, window, product)};
  };
}
Reference reference(const at::Tensor& document, double scale, int64_t window = kNoWindow) {
  return [=](const Tensors& in, const Tensors&) -> Tensors {
    return {causal_attention_reference(in[0], in[1], in[2], document, scale, window)};
  };
}

// Around the edges of blocks of 64 rows and keys and of tiles of 32, and few rows, which are taken
// one by one; with groups a block of rows ends within a token. Few queries after many cached keys
// come with one query each: where most gradients are zero, the root mean square that bounds are
// measured by says little about the rest.
const Shape kShapes[] = {
    {.seq_len = 1, .cached = 63},
    {.seq_len = 1, .cached = 200, .heads = 6, .kv_heads = 1},
    {.seq_len = 4, .cached = 4, .head_dim = 20},
    {.seq_len = 31, .heads = 1, .kv_heads = 1},
    {.seq_len = 64, .heads = 2, .head_dim = 64},
    {.seq_len = 65, .heads = 2},
    {.seq_len = 200, .heads = 2, .kv_heads = 1, .head_dim = 48},
    {.seq_len = 129, .heads = 3, .kv_heads = 1, .head_dim = 2},
    {.seq_len = 70, .cached = 1},
    {.seq_len = 30, .cached = 100, .head_dim = 16},
    {.seq_len = 130, .cached = 64, .heads = 5, .kv_heads = 1, .head_dim = 80},
    {.batch = 1, .seq_len = 33, .heads = 2, .kv_heads = 2, .head_dim = 128},
};

struct Arithmetic {
  at::ScalarType dtype;
  std::optional<Bf16Product> product;
};
std::vector<Arithmetic> arithmetics() {
  std::vector<Arithmetic> all = {{at::kDouble, {}}, {at::kFloat, {}}};
  for (const Bf16Product product : bf16_products()) all.push_back({at::kBFloat16, product});
  return all;
}
// In bfloat16 the saved output, weights and their gradients are rounded before they are used, and
// rows of few keys have gradients of scores that are small differences of what these are made of:
// the worst of 100,000 elements is off by 4 roundings. BfloatErrorsAreNoLargerThanTorchs measures
// what is lost on the whole.
double tolerance_of(at::ScalarType dtype) {
  return usual_tolerance(dtype) * (dtype == at::kBFloat16 ? 6 : 1);
}

TEST(CausalAttention, EqualsTheReferenceAtAnyShape) {
  for (const Shape& shape : kShapes)
    for (const Arithmetic& a : arithmetics()) {
      SCOPED_TRACE(text(shape) + " " + c10::toString(a.dtype));
      expect_equals_reference(op({}, scale_of(shape), a.product), reference({}, scale_of(shape)),
                              inputs_of(shape), {}, a.dtype, tolerance_of(a.dtype));
    }
}

TEST(CausalAttention, EqualsTheReferenceWithDocuments) {
  for (const Shape& shape : kShapes)
    for (const Arithmetic& a : arithmetics()) {
      SCOPED_TRACE(text(shape) + " " + c10::toString(a.dtype));
      const at::Tensor document = documents_of(shape);
      expect_equals_reference(op(document, scale_of(shape), a.product),
                              reference(document, scale_of(shape)), inputs_of(shape), {}, a.dtype,
                              tolerance_of(a.dtype));
    }
}

// Windows that end within a block, at its edge, and beyond all keys.
TEST(CausalAttention, EqualsTheReferenceWithAWindow) {
  for (const Shape& shape : kShapes)
    for (const Arithmetic& a : arithmetics())
      for (const int64_t window : {7, 64, 100})
        for (const at::Tensor& document : {at::Tensor(), documents_of(shape)}) {
          if (document.defined() != (window == 64)) continue;
          SCOPED_TRACE(text(shape) + " window " + std::to_string(window) + " " +
                       c10::toString(a.dtype));
          expect_equals_reference(op(document, scale_of(shape), a.product, window),
                                  reference(document, scale_of(shape), window), inputs_of(shape),
                                  {}, a.dtype, tolerance_of(a.dtype));
        }
}

TEST(CausalAttention, KeysBeforeTheWindowChangeNothing) {
  const Shape shape{.seq_len = 200};
  for (const Arithmetic& a : arithmetics())
    for (const int64_t window : {1, 40, 64, 65}) {
      Tensors in = inputs_of(shape);
      for (at::Tensor& x : in) x = x.to(a.dtype);
      const auto run = [&] {
        return causal_attention(in[0], in[1], in[2], {}, 0.2, window, a.product);
      };
      const at::Tensor before = run();
      for (size_t i = 1; i < 3; ++i) in[i].select(1, 100).mul_(-7).add_(3);
      const at::Tensor after = run();
      const int64_t beyond = 100 + window;
      EXPECT_TRUE(at::equal(before.narrow(1, 0, 100), after.narrow(1, 0, 100)));
      EXPECT_TRUE(
          at::equal(before.narrow(1, beyond, 200 - beyond), after.narrow(1, beyond, 200 - beyond)));
      EXPECT_FALSE(at::equal(before.select(1, beyond - 1), after.select(1, beyond - 1)));
    }
}

TEST(CausalAttention, OneTokenSeesItselfOnly) {
  const Shape shape{.seq_len = 1};
  for (const Arithmetic& a : arithmetics()) {
    Tensors in = inputs_of(shape);
    for (at::Tensor& x : in) x = x.to(a.dtype);
    const OpResult r = run_op(op({}, 0.2, a.product), in, {});
    expect_close(r.outputs[0], in[2].repeat_interleave(2, 2), {});
    // dP - delta is a difference of equal sums of 32 products in another order.
    const double bound = a.dtype == at::kDouble ? 1e-13 : 1e-5;
    for (int i = 0; i < 2; ++i)
      expect_close(r.input_grads[i].to(at::kDouble), at::zeros_like(in[i], at::kDouble),
                   {.absolute = bound});
  }
}

TEST(CausalAttention, LargeScoresNeitherOverflowNorVanish) {
  // Scores up to about 40,000: any exponential without the row's maximum would overflow.
  const Shape shape{.seq_len = 150};
  const Tensors in = inputs_of(shape, 100);
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const Tensors typed = {in[0].to(dtype), in[1].to(dtype), in[2].to(dtype)};
    const at::Tensor got = causal_attention(typed[0], typed[1], typed[2], {}, scale_of(shape));
    const at::Tensor want =
        causal_attention_reference(typed[0].to(at::kDouble), typed[1].to(at::kDouble),
                                   typed[2].to(at::kDouble), {}, scale_of(shape));
    // A score of 40,000 in float has an error of 4e-3, and so have the weights.
    expect_close(got.to(at::kDouble), want, {.absolute = dtype == at::kDouble ? 1e-10 : 2e-2});
  }
}

TEST(CausalAttention, BfloatErrorsAreNoLargerThanTorchs) {
  const Shape shape{.seq_len = 256, .kv_heads = 4, .head_dim = 64};
  Tensors in = inputs_of(shape), wide;
  for (at::Tensor& x : in) x = x.to(at::kBFloat16), wide.push_back(x.to(at::kDouble));
  const auto results = [](const OpResult& r) {
    return Tensors{r.outputs[0], r.input_grads[0], r.input_grads[1], r.input_grads[2]};
  };
  const auto exact = [&](const Tensors& x, const std::vector<Parameter>&) -> Tensors {
    return {causal_attention_reference(x[0], x[1], x[2], {}, scale_of(shape))};
  };
  const auto torchs = [&](const Tensors& x, const std::vector<Parameter>&) -> Tensors {
    return {at::scaled_dot_product_attention(x[0].transpose(1, 2), x[1].transpose(1, 2),
                                             x[2].transpose(1, 2), {}, 0.0, true)
                .transpose(1, 2)};
  };
  const Tensors want = results(run_op(exact, wide, {})), theirs = results(run_op(torchs, in, {}));
  const auto error = [](const at::Tensor& got, const at::Tensor& want) {
    return ((got.to(at::kDouble) - want).norm() / want.norm()).item<double>();
  };
  for (const Bf16Product product : bf16_products()) {
    const Tensors ours = results(run_op(op({}, scale_of(shape), product), in, {}));
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_LT(error(ours[i], want[i]), 1.1 * error(theirs[i], want[i]))
          << "of " << std::vector{"the result", "dq", "dk", "dv"}[i] << ", product "
          << static_cast<int>(product);
  }
}

TEST(CausalAttention, TakesStridedInputs) {
  const Shape shape;
  for (const Arithmetic& a : arithmetics()) {
    Tensors in = inputs_of(shape);
    // v as the layer has it: a part of the projection of each token.
    const int64_t width = shape.kv_heads * shape.head_dim;
    const at::Tensor projected =
        random_normal({shape.batch, shape.seq_len, 3 * width}, "qkv").to(a.dtype);
    in[2] = projected.narrow(2, width, width).unflatten(2, {shape.kv_heads, shape.head_dim});
    in[0] = strided_copy(in[0].to(a.dtype));
    in[1] = in[1].to(a.dtype).transpose(1, 2).contiguous().transpose(1, 2);
    expect_equals_reference(op({}, 0.2, a.product), reference({}, 0.2), in, {}, a.dtype,
                            tolerance_of(a.dtype));
  }
}

TEST(CausalAttention, GradientsEqualCentralDifferences) {
  const Shape shape{
      .batch = 1, .seq_len = 5, .cached = 2, .heads = 2, .kv_heads = 1, .head_dim = 3};
  expect_gradients_equal_differences(op({}, 0.5), inputs_of(shape), {});
  const at::Tensor document = at::full({1, 7}, 0, at::kInt);
  document.narrow(1, 4, 3).fill_(1);
  expect_gradients_equal_differences(op(document, 0.5), inputs_of(shape), {});
  expect_gradients_equal_differences(op({}, 0.5, {}, 3), inputs_of(shape), {});
}

TEST(CausalAttention, IsTheSameForAnyNumberOfThreads) {
  // One head of one row: its blocks are shared out between threads.
  for (const Shape& shape :
       {Shape{.seq_len = 333}, Shape{.batch = 1, .seq_len = 333, .heads = 1, .kv_heads = 1}})
    for (const Arithmetic& a : arithmetics()) {
      const at::Tensor document = documents_of(shape);
      Tensors in = inputs_of(shape);
      for (at::Tensor& x : in) x = x.to(a.dtype);
      expect_same_for_any_number_of_threads([&] {
        const OpResult r = run_op(op(document, 0.2, a.product), in, {});
        return Tensors{r.outputs[0], r.input_grads[0], r.input_grads[1], r.input_grads[2]};
      });
    }
}

TEST(CausalAttention, LaterTokensChangeNothing) {
  const Shape shape{.seq_len = 140, .cached = 10};
  for (const Arithmetic& a : arithmetics())
    for (const int64_t changed : {1, 63, 64, 100, 139}) {
      Tensors in = inputs_of(shape);
      for (at::Tensor& x : in) x = x.to(a.dtype);
      const at::Tensor before =
          causal_attention(in[0], in[1], in[2], {}, 0.2, kNoWindow, a.product);
      for (size_t i = 1; i < 3; ++i) in[i].select(1, shape.cached + changed).mul_(-7).add_(3);
      const at::Tensor after = causal_attention(in[0], in[1], in[2], {}, 0.2, kNoWindow, a.product);
      EXPECT_TRUE(at::equal(before.narrow(1, 0, changed), after.narrow(1, 0, changed)));
      EXPECT_FALSE(at::equal(before.select(1, changed), after.select(1, changed)));
    }
}

TEST(CausalAttention, OtherDocumentsChangeNothing) {
  const Shape shape{.batch = 1, .seq_len = 140};
  const at::Tensor document = at::full({1, 140}, 0, at::kInt);
  document.narrow(1, 50, 60).fill_(1), document.narrow(1, 110, 30).fill_(2);
  for (const Arithmetic& a : arithmetics()) {
    Tensors in = inputs_of(shape);
    for (at::Tensor& x : in) x = x.to(a.dtype);
    const auto run = [&] {
      const OpResult r = run_op(op(document, 0.2, a.product), in, {});
      return Tensors{r.outputs[0], r.input_grads[0], r.input_grads[1], r.input_grads[2]};
    };
    const Tensors before = run();
    for (at::Tensor& x : in) x.narrow(1, 50, 60).mul_(-7).add_(3);
    const Tensors after = run();
    for (size_t i = 0; i < before.size(); ++i) {
      EXPECT_TRUE(at::equal(before[i].narrow(1, 0, 50), after[i].narrow(1, 0, 50))) << i;
      EXPECT_TRUE(at::equal(before[i].narrow(1, 110, 30), after[i].narrow(1, 110, 30))) << i;
      EXPECT_FALSE(at::equal(before[i].narrow(1, 50, 60), after[i].narrow(1, 50, 60))) << i;
    }
  }
}

TEST(CausalAttention, CachedKeysGiveTheRestOfTheSequence) {
  const Shape shape{.seq_len = 190};
  const Tensors in = inputs_of(shape);
  const at::Tensor document = documents_of(shape);
  const at::Tensor whole = causal_attention(in[0], in[1], in[2], document, 0.2);
  for (const int64_t cut : {1, 64, 100, 189}) {
    const at::Tensor rest =
        causal_attention(in[0].narrow(1, cut, 190 - cut), in[1], in[2], document, 0.2);
    expect_close(rest, whole.narrow(1, cut, 190 - cut), {.absolute = 1e-14, .relative = 1e-13});
  }
}

TEST(CausalAttention, LongSequencesTakeNoSquareOfMemory) {
  // All scores of 16 heads of 4,096 tokens would be 1 GiB in float32.
  const Shape shape{.batch = 1, .seq_len = 4096, .heads = 16, .kv_heads = 16, .head_dim = 16};
  Tensors in;
  for (const at::Tensor& x : inputs_of(shape)) in.push_back(x.to(at::kBFloat16).requires_grad_());
  const auto peak_mib = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
  };
  const auto before = peak_mib();
  const at::Tensor y = causal_attention(in[0], in[1], in[2], {}, scale_of(shape));
  torch::autograd::backward({y}, {at::full({}, 1, y.options()).expand_as(y)});
  EXPECT_LT(peak_mib() - before, 200);
  // The last token's mean of values is short, and so is every gradient: something was computed.
  EXPECT_TRUE(in[0].grad().isfinite().all().item<bool>());
  EXPECT_GT(in[2].grad().abs().sum().item<float>(), 0);
}

TEST(CausalAttention, WrongArgumentsAreNamed) {
  const Shape shape;
  const Tensors in = inputs_of(shape);
  const at::Tensor &q = in[0], &k = in[1], &v = in[2];
  expect_error([&] { causal_attention(q[0], k, v, {}, 1); },
               "causal_attention: q, k and v must be [B, T, heads, head_dim], got 3, 4 and 4 "
               "dimensions");
  expect_error([&] { causal_attention(q, k, v.narrow(3, 0, 8), {}, 1); },
               "causal_attention: k and v must be [2, S, H_kv, 32], both the same");
  expect_error([&] { causal_attention(q, k.narrow(1, 0, 9), v.narrow(1, 0, 9), {}, 1); },
               "causal_attention: 9 keys are fewer than 70 queries");
  expect_error([&] { causal_attention(q.narrow(2, 0, 3), k, v, {}, 1); },
               "causal_attention: 2 key heads do not divide 3 query heads");
  expect_error([&] { causal_attention(q, k.to(at::kFloat), v, {}, 1); },
               "causal_attention: q is Double, k Float, v Double; they must agree");
  expect_error([&] { causal_attention(q.to(at::kHalf), k.to(at::kHalf), v.to(at::kHalf), {}, 1); },
               "causal_attention: Half is not supported; use float64, float32 or bfloat16");
  expect_error([&] { causal_attention(q, k, v, {}, 1, 0); },
               "causal_attention: window 0 is not allowed, must be at least 1");
  at::Tensor document = at::full({2, 70}, 1, at::kInt);
  expect_error([&] { causal_attention(q, k, v, document.narrow(1, 0, 69), 1); },
               "causal_attention: document must be int32 [2, 70], one for each key");
  document[1][5] = 0;
  expect_error([&] { causal_attention(q, k, v, document, 1); },
               "causal_attention: document 0 follows 1 in row 1; they must not decrease");
}

// packed_attention on a GPU beside the reference in float64. Each test runs by cuDNN and by
// FlashAttention; the former is skipped where there is none.
class PackedAttentionGpu : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    gpu_ = pick_device("cuda");
    const at::Tensor any =
        at::empty({1, 2, 1, 16}, at::TensorOptions().dtype(at::kBFloat16).device(gpu_));
    if (GetParam() && !cudnn_attention_supports(any, 2)) GTEST_SKIP() << "no cuDNN attention here";
  }
  Tensors on_gpu(const Tensors& in) const {
    Tensors there;
    for (const at::Tensor& x : in)
      there.push_back(x.to(gpu_, at::kBFloat16).detach().requires_grad_());
    return there;
  }
  at::Tensor attend(const Tensors& in, const at::Tensor& bounds, const Shape& s,
                    int64_t window = kNoWindow) const {
    const WithoutCudnn flash(!GetParam());
    EXPECT_EQ(cudnn_attention_supports(in[0], s.seq_len), GetParam());
    return packed_attention(in[0], in[1], in[2], bounds, s.seq_len, scale_of(s), window);
  }
  // `in` are leaves on the GPU. Gradients are compared from a channel on.
  void expect_reference(const Tensors& in, const Shape& s, const at::Tensor& document, int64_t room,
                        int64_t window, int64_t channel = 0) const {
    const at::Tensor bounds =
        document.defined() ? make_segments(document, room).bounds.to(gpu_) : at::Tensor();
    Tensors wide;
    for (const at::Tensor& x : in)
      wide.push_back(x.detach().to(at::kCPU, at::kDouble).requires_grad_());
    const at::Tensor got = attend(in, bounds, s, window);
    const at::Tensor want =
        causal_attention_reference(wide[0], wide[1], wide[2], document, scale_of(s), window);
    const at::Tensor dy = random_normal(want.sizes(), "dy").to(at::kBFloat16);
    torch::autograd::backward({got}, {dy.to(gpu_)});
    torch::autograd::backward({want}, {dy.to(at::kDouble)});
    const auto relative = [](const at::Tensor& a, const at::Tensor& b) {
      return ((a.to(at::kCPU, at::kDouble) - b).norm() / b.norm()).item<double>();
    };
    const std::string where = text(s) + " room " + std::to_string(room) + " window " +
                              std::to_string(window) + (document.defined() ? " documents" : "");
    // Weights, and gradients of scores, are rounded to 8 bits on the way.
    EXPECT_LT(relative(got.detach(), want.detach()), 4e-3) << where;
    // A token that sees itself alone gives queries and keys no gradient.
    for (size_t i = window == 1 ? 2 : 0; i < 3; ++i) {
      const at::Tensor grad = in[i].grad().slice(3, channel),
                       expected = wide[i].grad().slice(3, channel);
      EXPECT_LT(relative(grad, expected), 8e-3) << where << " input " << i;
      EXPECT_TRUE(in[i].grad().isfinite().all().item<bool>()) << where << " input " << i;
    }
  }
  at::Device gpu_ = at::kCPU;
};
INSTANTIATE_TEST_SUITE_P(ByCudnn, PackedAttentionGpu, ::testing::Values(true));
INSTANTIATE_TEST_SUITE_P(ByFlash, PackedAttentionGpu, ::testing::Values(false));

TEST_P(PackedAttentionGpu, EqualsTheReference) {
  struct Documents {
    bool any;
    int64_t room;
  };
  for (const Shape& s :
       {Shape{}, Shape{.batch = 3, .seq_len = 257, .heads = 4, .kv_heads = 4, .head_dim = 64},
        Shape{.batch = 1, .seq_len = 500, .heads = 6, .kv_heads = 1, .head_dim = 128},
        Shape{.seq_len = 300, .heads = 3, .kv_heads = 1, .head_dim = 256}})
    for (const Documents& documents : {Documents{true, 0}, {true, 200}, {false, 0}})
      for (const int64_t window : {int64_t{1}, int64_t{33}, int64_t{128}, kNoWindow})
        expect_reference(on_gpu(inputs_of(s)), s,
                         documents.any ? documents_of(s) + 1 : at::Tensor(), documents.room,
                         window);
}

TEST_P(PackedAttentionGpu, DocumentsOfOneTokenGiveTheirValues) {
  const Shape s{.seq_len = 130, .head_dim = 64};
  const Tensors in = on_gpu(inputs_of(s));
  const at::Tensor each = at::arange(s.seq_len, at::kInt).expand({s.batch, s.seq_len}).contiguous();
  const at::Tensor y = attend(in, make_segments(each).bounds.to(gpu_), s);
  EXPECT_TRUE(at::equal(y, in[2].repeat_interleave(s.heads / s.kv_heads, 2)));
}

TEST_P(PackedAttentionGpu, ReadsHeadsThatLieInALargerTensor) {
  const Shape s{.seq_len = 200, .head_dim = 64};
  for (const bool documents : {false, true}) {
    // 8 heads of one projection, as the layer's values are; and a view that no pieces of 16 bytes
    // fit.
    const at::Tensor all =
        random_normal({s.batch, s.seq_len, 8, s.head_dim}, "all").to(gpu_, at::kBFloat16);
    const at::Tensor odd =
        random_normal({s.batch, s.seq_len, 2, s.head_dim + 1}, "odd").to(gpu_, at::kBFloat16);
    const Tensors views = {all.narrow(2, 0, 4).detach().requires_grad_(),
                           odd.narrow(3, 1, s.head_dim).detach().requires_grad_(),
                           all.narrow(2, 6, 2).detach().requires_grad_()};
    expect_reference(views, s, documents ? documents_of(s) + 1 : at::Tensor(), 0, 50);
  }
}

// cuDNN before 9.30 lets keys past the end in unmasked where lengths are 64 beyond a multiple of
// 128: exp(0 - L) overflows for L below -88 (NVIDIA/cudnn-frontend pull request 628, pytorch issue
// 196678). The causal mask covers them.
TEST_P(PackedAttentionGpu, GradientsAreFiniteWhereAllScoresAreFarBelowZero) {
  for (const int64_t length : {64, 192, 320}) {
    const Shape s{.batch = 1, .seq_len = 3 * length, .heads = 2, .kv_heads = 2, .head_dim = 64};
    const at::Tensor document = at::arange(3 * length, at::kInt).div(length, "floor").to(at::kInt);
    for (const bool documents : {false, true})
      for (const int64_t window : {int64_t{100}, kNoWindow}) {
        Tensors plain = inputs_of(s, 0.1);
        plain[0].select(3, 0).fill_(1);
        plain[1].select(3, 0).fill_(-120 / scale_of(s));  // every score is about -120
        // What all keys share is no part of a query's gradient, but for the roundings of the
        // weights' gradients, whose sum is 0.
        expect_reference(on_gpu(plain), s, documents ? document.view({1, -1}) : at::Tensor(), 0,
                         window, 1);
      }
  }
}

TEST_P(PackedAttentionGpu, ForwardIsTheSameTwice) {
  const Shape s{.seq_len = 1000, .heads = 8, .kv_heads = 2, .head_dim = 128};
  const Tensors in = on_gpu(inputs_of(s));
  const at::Tensor bounds = make_segments(documents_of(s) + 1).bounds.to(gpu_);
  for (const at::Tensor& documents : {at::Tensor(), bounds})
    EXPECT_TRUE(at::equal(attend(in, documents, s, 200), attend(in, documents, s, 200)));
}

TEST(PackedAttentionGpuDeterministic, TakesNoCudnnAndGivesTheSameGradientsTwice) {
  const at::Device gpu = pick_device("cuda");
  const Shape s{.seq_len = 1000, .heads = 8, .kv_heads = 2, .head_dim = 128};
  const auto gradients = [&] {
    Tensors in;
    for (const at::Tensor& x : inputs_of(s))
      in.push_back(x.to(gpu, at::kBFloat16).detach().requires_grad_());
    EXPECT_FALSE(cudnn_attention_supports(in[0], s.seq_len));
    const at::Tensor y = packed_attention(in[0], in[1], in[2], {}, s.seq_len, scale_of(s), 200);
    return torch::autograd::grad({y}, in, {at::full({}, 1, y.options()).expand_as(y)});
  };
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  const auto first = gradients(), second = gradients();
  at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(first[i], second[i])) << "input " << i;
}

}  // namespace
}  // namespace ceiling
