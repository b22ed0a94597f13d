#include "modules/ops/adamw/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "modules/ops/device.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/random_inputs.h"

namespace ceiling {
namespace {

struct Buffers {
  at::Tensor master, grad, m, v, compute;
  Buffers(int64_t n, at::ScalarType dtype, bool bf16_copy, at::Device device = at::kCPU)
      : master(random_normal({n}, "master").to(device, dtype)),
        grad(random_normal({n}, "grad").to(device, dtype)),
        m(random_normal({n}, "m", 1, 0.1).to(device, dtype)),
        v(random_normal({n}, "v", 1, 0.1).square().to(device, dtype)),
        compute(bf16_copy ? at::zeros({n}, at::kBFloat16).to(device) : at::Tensor()) {}
  void step(const std::vector<AdamwGroup>& groups, const AdamwStep& step) {
    adamw(master, grad, m, v, compute, groups, step);
  }
};

AdamwStep step_of(double lr, int64_t t) {
  return {.lr = lr, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .step = t, .grad_scale = 0.5};
}

// torch.optim.AdamW's single-tensor update, operation by operation.
void torch_adamw(double& w, double g, double& m, double& v, double lr, double decay,
                 const AdamwStep& s) {
  w *= 1 - lr * decay;
  m += (g - m) * (1 - s.beta1);
  v = v * s.beta2 + (1 - s.beta2) * g * g;
  const double correction1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correction2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  w -= lr / correction1 * m / (std::sqrt(v) / std::sqrt(correction2) + s.eps);
}

// Runs five steps and compares with torch's formula in float64.
void expect_torch_adamw(at::ScalarType dtype, double tolerance, at::Device device) {
  const int64_t n = 1000;
  Buffers b(n, dtype, dtype == at::kFloat, device);
  // Groups of unequal lengths with padding between; 700.. is in none.
  const std::vector<AdamwGroup> groups = {
      {0, 300, 0.1, 1.0}, {384, 511, 0.0, 1.0}, {512, 700, 0.1, 0.3}};
  at::Tensor w = b.master.to(at::kCPU, at::kDouble).clone(),
             m = b.m.to(at::kCPU, at::kDouble).clone(), v = b.v.to(at::kCPU, at::kDouble).clone();
  double *pw = w.mutable_data_ptr<double>(), *pm = m.mutable_data_ptr<double>(),
         *pv = v.mutable_data_ptr<double>();
  for (int64_t t = 1; t <= 5; ++t) {
    const at::Tensor g = random_normal({n}, "grad", static_cast<uint64_t>(t)).to(dtype);
    b.grad.copy_(g);
    const AdamwStep step = step_of(1e-2 / static_cast<double>(t), t);
    b.step(groups, step);
    const at::Tensor g64 = g.to(at::kDouble) * step.grad_scale;
    for (const AdamwGroup& group : groups)
      for (int64_t i = group.begin; i < group.end; ++i)
        torch_adamw(pw[i], g64.const_data_ptr<double>()[i], pm[i], pv[i], step.lr * group.lr_factor,
                    group.weight_decay, step);
    // The gradient is zero where a group was, and untouched in padding.
    const at::Tensor left = b.grad.cpu();
    EXPECT_EQ(left.narrow(0, 0, 300).abs().sum().item<double>(), 0);
    expect_close(left.narrow(0, 700, 300), g.narrow(0, 700, 300), {});
    expect_close(left.narrow(0, 511, 1), g.narrow(0, 511, 1), {});
  }
  expect_close(b.master, w, {.absolute = tolerance, .relative = tolerance});
  expect_close(b.m, m, {.absolute = tolerance, .relative = tolerance});
  expect_close(b.v, v, {.absolute = 1e-30, .relative = 2 * tolerance});
  if (b.compute.defined()) {
    expect_close(b.compute.narrow(0, 0, 300), b.master.narrow(0, 0, 300).to(at::kBFloat16), {});
    expect_close(b.compute.narrow(0, 700, 300), at::zeros({300}), {});
  }
}

TEST(Adamw, IsTorchsAdamW) {
  expect_torch_adamw(at::kDouble, 1e-14, at::kCPU);
  expect_torch_adamw(at::kFloat, 2e-6, at::kCPU);
}

TEST(Adamw, LearningRateZeroLeavesEveryBitOfTheWeights) {
  Buffers b(1000, at::kFloat, true);
  b.v.narrow(0, 0, 10).zero_(), b.m.narrow(0, 0, 10).zero_(), b.grad.narrow(0, 0, 5).zero_();
  const at::Tensor before = b.master.clone();
  b.step({{0, 1000, 0.1, 1.0}}, step_of(0, 1));
  expect_close(b.master, before, {});
}

TEST(Adamw, AGradientThatIsAlwaysZeroOnlyDecays) {
  Buffers b(64, at::kDouble, false);
  b.grad.zero_(), b.m.zero_(), b.v.zero_();
  const at::Tensor before = b.master.clone();
  b.step({{0, 64, 0.1, 1.0}}, step_of(0.5, 1));
  expect_close(b.master, before * (1 - 0.05), {.relative = 1e-15});
}

TEST(Adamw, IsTheSameForAnyNumberOfThreads) {
  expect_same_for_any_number_of_threads([] {
    Buffers b(200003, at::kFloat, true);
    b.step({{0, 100001, 0.1, 1.0}, {100096, 200003, 0, 1.0}}, step_of(1e-3, 7));
    return Tensors{b.master, b.m, b.v, b.grad, b.compute};
  });
}

TEST(Adamw, WrongBuffersAreRefused) {
  Buffers b(8, at::kFloat, false);
  const std::vector<AdamwGroup> all = {{0, 8, 0, 1}};
  const std::string message =
      "adamw: master, grad, m and v must be contiguous, of one dtype and length";
  expect_error([&] { adamw(b.master, b.grad.narrow(0, 0, 7), b.m, b.v, {}, all, step_of(1, 1)); },
               message);
  expect_error([&] { adamw(b.master, b.grad.to(at::kDouble), b.m, b.v, {}, all, step_of(1, 1)); },
               message);
  expect_error([&] { adamw(b.master, b.grad, b.m, b.v, at::zeros({8}), all, step_of(1, 1)); },
               "adamw: the compute copy must be bfloat16 and as long as the master");
}

TEST(AdamwGpu, IsTorchsAdamW) { expect_torch_adamw(at::kFloat, 2e-6, pick_device("cuda")); }

}  // namespace
}  // namespace ceiling
