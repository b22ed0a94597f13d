#include "tests/support/gradcheck.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>

#include "tests/support/expect_close.h"
#include "tests/support/random_inputs.h"

namespace ceiling {

namespace {

// The gradient that arrives at output i.
at::Tensor cotangent(const at::Tensor& output, size_t i) {
  return random_normal(output.sizes(), "cotangent " + std::to_string(i))
      .to(output.device(), output.scalar_type());
}

void run_backward(const Tensors& outputs) {
  Tensors reached, arriving;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].requires_grad()) continue;
    reached.push_back(outputs[i]);
    arriving.push_back(cotangent(outputs[i], i));
  }
  torch::autograd::backward(reached, arriving);
}

at::Tensor leaf(const at::Tensor& tensor) {
  return tensor.is_floating_point() ? tensor.detach().requires_grad_() : tensor;
}

std::vector<Parameter> parameters_of(const Tensors& weights) {
  std::vector<Parameter> parameters;
  for (const at::Tensor& weight : weights) parameters.push_back(parameter_of(weight));
  return parameters;
}

}  // namespace

OpResult run_op(const Op& op, const Tensors& inputs, const Tensors& weights) {
  Tensors leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(leaf(input));
  const std::vector<Parameter> parameters = parameters_of(weights);
  OpResult result;
  result.outputs = op(leaves, parameters);
  run_backward(result.outputs);
  for (const at::Tensor& input : leaves) result.input_grads.push_back(input.grad());
  for (const Parameter& parameter : parameters) {
    EXPECT_FALSE(parameter.value.grad().defined()) << "the gradient must go into Parameter::grad";
    result.weight_grads.push_back(parameter.grad);
  }
  return result;
}

void expect_gradients_equal_differences(const Op& op, const Tensors& inputs, const Tensors& weights,
                                        std::source_location where) {
  const OpResult result = run_op(op, inputs, weights);
  at::NoGradGuard no_grad;
  Tensors moved;
  for (const at::Tensor& input : inputs) moved.push_back(input.clone());
  const std::vector<Parameter> parameters = parameters_of(weights);
  const auto value = [&] {
    double sum = 0;
    const Tensors outputs = op(moved, parameters);
    for (size_t i = 0; i < outputs.size(); ++i)
      if (result.outputs[i].requires_grad())
        sum += (outputs[i] * cotangent(outputs[i], i)).sum().item<double>();
    return sum;
  };
  const auto check = [&](const at::Tensor& tensor, const at::Tensor& grad) {
    const at::Tensor differences = at::empty_like(grad, at::MemoryFormat::Contiguous);
    double* data = tensor.mutable_data_ptr<double>();
    constexpr double kStep = 1e-5;  // truncation 1e-10, rounding 1e-11
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      const double kept = data[i];
      data[i] = kept + kStep;
      const double above = value();
      data[i] = kept - kStep;
      const double below = value();
      data[i] = kept;
      differences.mutable_data_ptr<double>()[i] = (above - below) / (2 * kStep);
    }
    expect_close(grad, differences, {.absolute = 1e-7, .relative = 1e-7}, where);
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].is_floating_point()) continue;
    moved[i] = moved[i].contiguous();
    check(moved[i], result.input_grads[i]);
  }
  for (size_t i = 0; i < weights.size(); ++i) check(parameters[i].value, result.weight_grads[i]);
}

void expect_equals_reference(const Op& op, const Reference& reference, const Tensors& inputs,
                             const Tensors& weights, at::ScalarType dtype, double tolerance,
                             at::Device device, std::source_location where) {
  const auto convert = [&](const Tensors& from) {
    Tensors to;
    for (const at::Tensor& tensor : from)
      to.push_back(tensor.is_floating_point() ? tensor.to(device, dtype) : tensor.to(device));
    return to;
  };
  const Tensors given = convert(inputs), given_weights = convert(weights);
  const OpResult result = run_op(op, given, given_weights);

  Tensors leaves, weight_leaves;
  for (const at::Tensor& input : given)
    leaves.push_back(
        leaf(input.is_floating_point() ? input.to(at::kCPU, at::kDouble) : input.cpu()));
  for (const at::Tensor& weight : given_weights)
    weight_leaves.push_back(leaf(weight.to(at::kCPU, at::kDouble)));
  const Tensors expected = reference(leaves, weight_leaves);
  Tensors reached, arriving;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!result.outputs[i].requires_grad()) continue;
    reached.push_back(expected[i]);
    arriving.push_back(cotangent(result.outputs[i], i).to(at::kCPU, at::kDouble));
  }
  torch::autograd::backward(reached, arriving);

  const auto compare = [&](const at::Tensor& actual, const at::Tensor& want) {
    // An undefined gradient is zero.
    const at::Tensor got = actual.defined() ? actual : at::zeros(want.sizes(), want.options());
    const double rms = want.square().mean().sqrt().item<double>();
    expect_close(got, want, {.absolute = tolerance * rms, .relative = tolerance}, where);
  };
  for (size_t i = 0; i < expected.size(); ++i) compare(result.outputs[i], expected[i].detach());
  for (size_t i = 0; i < leaves.size(); ++i)
    if (leaves[i].grad().defined()) compare(result.input_grads[i], leaves[i].grad());
  for (size_t i = 0; i < weight_leaves.size(); ++i)
    compare(result.weight_grads[i], weight_leaves[i].grad());
}

double usual_tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 0x1p-8;
}

void expect_same_for_any_number_of_threads(const std::function<Tensors()>& run,
                                           std::source_location where) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensors alone = run();
  for (const int n : {2, 3}) {
    at::set_num_threads(n);
    const Tensors together = run();
    for (size_t i = 0; i < alone.size(); ++i)
      if (!at::equal(alone[i], together[i]))
        ADD_FAILURE_AT(where.file_name(), static_cast<int>(where.line()))
            << "result " << i << " with " << n << " threads differs from that with one";
  }
  at::set_num_threads(before);
}

}  // namespace ceiling
