// The squared norm of a flat buffer, and where it is not finite.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace ceiling {

// Sum of squares of `flat` [n] (float32 or float64) as a float64 scalar on its device. Partial sums
// over fixed blocks, added in order: the same for any number of threads, and in every run.
at::Tensor squared_norm(const at::Tensor& flat);

// Index of the first element that is infinite or not a number.
std::optional<int64_t> first_nonfinite(const at::Tensor& flat);

}  // namespace ceiling
