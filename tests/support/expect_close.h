// Element-wise comparison of tensors that names the worst element.
#pragma once
#include <ATen/core/Tensor.h>

#include <source_location>

namespace ceiling {

// |actual - expected| <= absolute + relative * |expected|, for every element.
struct Bound {
  double absolute = 0, relative = 0;
};

// Fails the test with the worst element, its index, both values and the bound. Not-a-number equals
// nothing; infinities equal themselves. `where` is the caller's line.
void expect_close(const at::Tensor& actual, const at::Tensor& expected, Bound bound,
                  std::source_location where = std::source_location::current());

}  // namespace ceiling
