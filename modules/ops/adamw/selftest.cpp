#include <ATen/TensorOperators.h>

#include <ATen/ops/scalar_tensor.h>

#include "modules/ops/adamw/adamw.h"
#include "modules/ops/grad_norm/grad_norm.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

// A range that begins and ends within 16-byte pieces, against the formula in float64.
const RegisterSelftest kSelftest("adamw", [](SelftestReport& report) {
  const int64_t n = 5003, begin = 128, end = 4999;
  const at::Tensor w = report.random({n}), g = report.random({n}), m = 0.1 * report.random({n}),
                   v = report.random({n}).square();
  const auto there = [&](const at::Tensor& x) { return x.to(report.device(), at::kFloat).clone(); };
  const at::Tensor weights = there(w), grads = there(g), means = there(m), squares = there(v);
  const double norm = squared_norm(grads).item<double>();
  report.compare("grad_norm", "5,003", {at::scalar_tensor(norm)}, {g.square().sum()}, 1e-6);
  const AdamwStep step{
      .lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .step = 3, .grad_scale = 0.5};
  adamw(weights, grads, means, squares, {}, {{begin, end, 0.1, 2.0}}, step);
  const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, end - begin); };
  const at::Tensor grad = 0.5 * part(g), mean = 0.9 * part(m) + 0.1 * grad,
                   square = 0.99 * part(v) + 0.01 * grad.square();
  const double lr = 0.01 * 2;
  at::Tensor want_w = w.clone(), want_m = m.clone(), want_v = v.clone(), want_g = g.clone();
  part(want_m).copy_(mean), part(want_v).copy_(square), part(want_g).zero_();
  part(want_w).copy_(part(w) * (1 - lr * 0.1) -
                     lr * (mean / (1 - 0.9 * 0.9 * 0.9)) /
                         ((square / (1 - 0.99 * 0.99 * 0.99)).sqrt() + 1e-8));
  report.compare("adamw", "5,003, [128, 4,999)", {weights, grads, means, squares},
                 {want_w, want_g, want_m, want_v}, 1e-5);
});

}  // namespace
}  // namespace ceiling
