#include "modules/ops/grad_norm/grad_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "modules/ops/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

TEST(SquaredNorm, EqualsTheSumInDouble) {
  for (const int64_t n : {1, 511, 513, 16384, 16385, 100000})
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      const at::Tensor x = random_normal({n}, "x").to(dtype);
      const double want = x.to(at::kDouble).square().sum().item<double>();
      EXPECT_NEAR(squared_norm(x).item<double>(), want, 1e-12 * want) << n;
    }
  EXPECT_EQ(squared_norm(at::empty({0})).item<double>(), 0);
}

TEST(SquaredNorm, HugeAndTinyGradientsNeitherOverflowNorVanish) {
  EXPECT_NEAR(squared_norm(at::full({3}, 1e30f)).item<double>(), 3e60, 1e54);
  EXPECT_NEAR(squared_norm(at::full({3}, 1e-30f)).item<double>(), 3e-60, 1e-66);
}

TEST(SquaredNorm, IsTheSameForAnyNumberOfThreads) {
  const at::Tensor x = random_normal({500001}, "x").to(at::kFloat);
  expect_same_for_any_number_of_threads([&] { return Tensors{squared_norm(x)}; });
}

TEST(SquaredNorm, ShowsWhatIsNotFinite) {
  at::Tensor x = at::zeros({1000});
  x[700] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(squared_norm(x).item<double>()));
}

TEST(SquaredNorm, WrongBuffersAreRefused) {
  const std::string message = "squared_norm: a contiguous float32 or float64 buffer is needed";
  expect_error([] { squared_norm(at::zeros({4}, at::kBFloat16)); }, message);
  expect_error([] { squared_norm(at::zeros({4, 2}).select(1, 0)); }, message);
}

TEST(FirstNonfinite, IsTheFirstIndex) {
  at::Tensor x = random_normal({100000}, "x").to(at::kFloat);
  EXPECT_FALSE(first_nonfinite(x).has_value());
  x[99999] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_nonfinite(x), 99999);
  x[777] = std::numeric_limits<float>::quiet_NaN();
  x[800] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_nonfinite(x), 777);
}

TEST(SquaredNormGpu, EqualsTheSumInDoubleAndItself) {
  const at::Device gpu = pick_device("cuda");
  for (const int64_t n : {1, 513, 16385, 1000003}) {
    const at::Tensor x = random_normal({n}, "x").to(at::kFloat);
    const double want = x.to(at::kDouble).square().sum().item<double>();
    const double got = squared_norm(x.to(gpu)).item<double>();
    EXPECT_NEAR(got, want, 1e-12 * want) << n;
    EXPECT_EQ(squared_norm(x.to(gpu)).item<double>(), got);
  }
  EXPECT_NEAR(squared_norm(at::full({3}, 1e30f).to(gpu)).item<double>(), 3e60, 1e54);
  expect_error([&] { squared_norm(at::zeros({4}, at::kDouble).to(gpu)); },
               "squared_norm: on a GPU the buffer must be float32");
}

}  // namespace
}  // namespace ceiling
