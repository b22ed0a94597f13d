// The slow truth: the recurrences of README.md token by token, in plain ATen; autograd derives
// their backward.
#pragma once
#include "modules/ops/linear_scan/linear_scan.h"

namespace ceiling {

// Arguments as of linear_scan() and rg_lru(); any device. Arithmetic in float64 for float64, else
// in float32.
LinearScanOutput linear_scan_reference(const at::Tensor& a, const at::Tensor& b,
                                       const at::Tensor& state, const Segments& segments);
LinearScanOutput rg_lru_reference(const at::Tensor& x, const at::Tensor& recurrence,
                                  const at::Tensor& input, const at::Tensor& lambda,
                                  const at::Tensor& recurrence_bias, const at::Tensor& input_bias,
                                  const at::Tensor& state, const Segments& segments);

}  // namespace ceiling
