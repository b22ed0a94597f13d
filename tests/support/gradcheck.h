// How the backward passes of ops are tested.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <source_location>
#include <vector>

#include "modules/parameter.h"

namespace ceiling {

using Tensors = std::vector<at::Tensor>;
using Op = std::function<Tensors(const Tensors& inputs, const std::vector<Parameter>& parameters)>;
using Reference = std::function<Tensors(const Tensors& inputs, const Tensors& weights)>;

struct OpResult {
  Tensors outputs, input_grads, weight_grads;
};
// Forward, and backward of sum(outputs * fixed random numbers). Inputs become leaves as they are
// (strides included).
OpResult run_op(const Op& op, const Tensors& inputs, const Tensors& weights);

// Every gradient of `op` against central differences of its outputs; all in float64.
void expect_gradients_equal_differences(
    const Op& op, const Tensors& inputs, const Tensors& weights,
    std::source_location where = std::source_location::current());

// Outputs and gradients of `op` in `dtype` on `device` against `reference` in float64 on the same
// (rounded) inputs, to `tolerance` of an element's size plus the tensor's root mean square.
void expect_equals_reference(const Op& op, const Reference& reference, const Tensors& inputs,
                             const Tensors& weights, at::ScalarType dtype, double tolerance,
                             at::Device device = at::kCPU,
                             std::source_location where = std::source_location::current());
// float64: 1e-12. float32: 1e-5, sums of a few hundred terms and exp to 2e-7. bfloat16: 2^-8, one
// rounding to 8 bits.
double usual_tolerance(at::ScalarType dtype);

// The same bits with 1, 2 and 3 threads, in everything `run` returns.
void expect_same_for_any_number_of_threads(
    const std::function<Tensors()>& run,
    std::source_location where = std::source_location::current());

}  // namespace ceiling
