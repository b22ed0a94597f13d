// Kernels against their references on the present device, in seconds: modules/ops/<op>/selftest.cpp
// registers one, `ceiling selftest` runs them, and training on a GPU does before its first step.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "modules/parameter.h"

namespace ceiling {

struct SelftestRow {
  std::string op, shape;
  double error = 0, bound = 0;  // largest |got - want| / |want| over results, by Frobenius norms
  bool passed() const { return error <= bound; }  // not-a-number does not
};

class SelftestReport {
 public:
  using Tensors = std::vector<at::Tensor>;
  using Op = std::function<Tensors(const Tensors& inputs, const std::vector<Parameter>& weights)>;
  using Reference = std::function<Tensors(const Tensors& inputs, const Tensors& weights)>;

  // `shifted`: inputs and weights on the device begin one element after a whole piece of 16 bytes.
  explicit SelftestReport(at::Device device, bool shifted = false)
      : device_(device), shifted_(shifted) {}
  at::Device device() const { return device_; }
  // The numbers of an op do not depend on those that other ops asked for before it.
  void begin_op() { n_random_ = 0; }
  // Standard normal float64 numbers on the CPU, the same in every run.
  at::Tensor random(at::IntArrayRef shape);
  // Outputs and all gradients of `op` in `dtype` on the device against `reference` in float64 on
  // the CPU, both on the same rounded numbers.
  void differentiable(const std::string& op_name, const std::string& shape, const Op& op,
                      const Reference& reference, const Tensors& inputs, const Tensors& weights,
                      at::ScalarType dtype, double bound);
  void compare(const std::string& op_name, const std::string& shape, const Tensors& got,
               const Tensors& want, double bound);
  const std::vector<SelftestRow>& rows() const { return rows_; }

 private:
  at::Tensor cotangent_for(const at::Tensor& output);
  at::Tensor placed(const at::Tensor& x, at::ScalarType dtype) const;

  at::Device device_;
  bool shifted_;
  uint64_t n_random_ = 0;
  std::vector<SelftestRow> rows_;
};

// Of results in `dtype`: a few roundings, and sums of rounded products. float32 1e-5, bfloat16 8e-3
// (specified for gradients against float64).
double selftest_bound(at::ScalarType dtype);

struct RegisterSelftest {
  RegisterSelftest(std::string op, std::function<void(SelftestReport&)> run);
};

// Runs the self-tests whose name contains `filter`.
void run_selftests(const std::string& filter, SelftestReport& report);

}  // namespace ceiling
