// Seeded inputs of op tests.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "modules/parameter.h"

namespace ceiling {

// Standard normal numbers times `scale`, [shape], on the CPU; the same for equal (seed, name).
at::Tensor random_normal(at::IntArrayRef shape, const std::string& name, uint64_t seed = 1,
                         double scale = 1, at::ScalarType dtype = at::kDouble);

// [shape] int32 in [low, high).
at::Tensor random_ints(at::IntArrayRef shape, int64_t low, int64_t high, const std::string& name,
                       uint64_t seed = 1);

// A parameter with this value, a leaf, and a zero gradient in float32 (float64 for float64).
Parameter parameter_of(const at::Tensor& value, std::string name = "weight");

// The same values at other addresses: no dimension but those of size 1 is contiguous.
at::Tensor strided_copy(const at::Tensor& tensor);

}  // namespace ceiling
