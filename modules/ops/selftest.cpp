#include "modules/ops/selftest.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "modules/ops/checks.h"

namespace ceiling {

namespace {

struct Selftest {
  std::string op;
  std::function<void(SelftestReport&)> run;
};
std::vector<Selftest>& selftests() {
  static std::vector<Selftest> all;
  return all;
}

using Tensors = SelftestReport::Tensors;

// Gradients of sum(outputs * cotangents) at the inputs that are numbers.
Tensors input_gradients(const Tensors& outputs, const Tensors& cotangents, const Tensors& inputs) {
  torch::autograd::backward(outputs, cotangents);
  Tensors grads;
  for (const at::Tensor& input : inputs)
    if (input.is_floating_point())
      grads.push_back(input.grad().defined() ? input.grad() : at::zeros_like(input));
  return grads;
}

at::Tensor leaf(const at::Tensor& x) {
  return x.is_floating_point() ? x.detach().requires_grad_() : x;
}

}  // namespace

RegisterSelftest::RegisterSelftest(std::string op, std::function<void(SelftestReport&)> run) {
  selftests().push_back({std::move(op), std::move(run)});
}

double selftest_bound(at::ScalarType dtype) { return dtype == at::kBFloat16 ? 8e-3 : 1e-5; }

at::Tensor SelftestReport::random(at::IntArrayRef shape) {
  return at::randn(shape, at::Generator(at::detail::createCPUGenerator(++n_random_)), at::kDouble);
}

// Of a scalar, which is a loss, one: what ends a graph takes no other gradient. Else chance, and as
// much in the output's own direction: by chance alone a gradient of few numbers, each a sum of many
// terms, may nearly vanish, and its rounding shows where nothing is wrong.
at::Tensor SelftestReport::cotangent_for(const at::Tensor& output) {
  if (output.dim() == 0) return at::ones_like(output);
  const double size = std::sqrt(output.square().mean().item<double>());
  return random(output.sizes()) + (size > 0 ? output / size : output);
}

// In `dtype` on the device; numbers that are not floating-point keep theirs.
at::Tensor SelftestReport::placed(const at::Tensor& x, at::ScalarType dtype) const {
  const at::Tensor there = x.to(device_, x.is_floating_point() ? dtype : x.scalar_type());
  if (!shifted_) return there;
  const at::Tensor room = at::empty({there.numel() + 1}, there.options());
  return room.narrow(0, 1, there.numel()).view(there.sizes()).copy_(there);
}

void SelftestReport::compare(const std::string& op_name, const std::string& shape,
                             const Tensors& got, const Tensors& want, double bound) {
  SelftestRow row{op_name, shape, 0, bound};
  if (got.size() != want.size()) row.error = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const at::Tensor expected = want[i].to(at::kCPU, at::kDouble);
    const double size = expected.norm().item<double>();
    const double error = (got[i].to(at::kCPU, at::kDouble) - expected).norm().item<double>();
    const double relative = size > 0 ? error / size : error;
    // A not-a-number stays.
    if (!(relative <= row.error) && !std::isnan(row.error)) row.error = relative;
  }
  rows_.push_back(std::move(row));
}

void SelftestReport::differentiable(const std::string& op_name, const std::string& shape,
                                    const Op& op, const Reference& reference, const Tensors& inputs,
                                    const Tensors& weights, at::ScalarType dtype, double bound) {
  at::AutoGradMode on(true);
  Tensors there, here, weights_here;
  std::vector<Parameter> parameters;
  for (const at::Tensor& input : inputs) {
    there.push_back(leaf(placed(input, dtype)));
    here.push_back(
        leaf(input.is_floating_point() ? there.back().detach().to(at::kCPU, at::kDouble) : input));
  }
  for (const at::Tensor& weight : weights) {
    Parameter parameter;
    parameter.name = "weight", parameter.shape = weight.sizes().vec();
    parameter.value = placed(weight, dtype).requires_grad_();
    parameter.grad =
        at::zeros(weight.sizes(), at::TensorOptions().dtype(at::kFloat).device(device_));
    weights_here.push_back(leaf(parameter.value.detach().to(at::kCPU, at::kDouble)));
    parameters.push_back(std::move(parameter));
  }
  Tensors got = op(there, parameters), want = reference(here, weights_here);
  Tensors cotangents, cotangents_here;
  for (const at::Tensor& output : want)
    cotangents_here.push_back(cotangent_for(output.detach()).to(dtype).to(at::kDouble));
  for (size_t i = 0; i < got.size(); ++i)
    cotangents.push_back(placed(cotangents_here[i], got[i].scalar_type()));
  const Tensors got_grads = input_gradients(got, cotangents, there),
                want_grads = input_gradients(want, cotangents_here, here);
  for (at::Tensor* tensor = got.data(); tensor != got.data() + got.size(); ++tensor)
    *tensor = tensor->detach();
  for (at::Tensor& tensor : want) tensor = tensor.detach();
  got.insert(got.end(), got_grads.begin(), got_grads.end());
  want.insert(want.end(), want_grads.begin(), want_grads.end());
  for (size_t i = 0; i < parameters.size(); ++i) {
    got.push_back(parameters[i].grad);
    want.push_back(weights_here[i].grad().defined() ? weights_here[i].grad()
                                                    : at::zeros_like(weights_here[i]));
  }
  compare(op_name, shape + (dtype == at::kBFloat16 ? " bf16" : " fp32"), got, want, bound);
}

void run_selftests(const std::string& filter, SelftestReport& report) {
  std::sort(selftests().begin(), selftests().end(),
            [](const Selftest& a, const Selftest& b) { return a.op < b.op; });
  for (const Selftest& test : selftests())
    if (test.op.find(filter) != std::string::npos) {
      report.begin_op();
      test.run(report);
    }
}

}  // namespace ceiling
