// Weight gradients of norms. Each task of a backward pass (a block of rows on a CPU, a thread block
// on a GPU) leaves one row of partial sums; these are then added in a fixed order, so that two runs
// agree to the bit.
#pragma once
#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>

namespace ceiling {

// Rows of partial sums to make room for. On a GPU four blocks per SM of an H100: a constant, so
// that results do not depend on the card.
inline int64_t weight_partials(at::Device device, int64_t rows, int64_t rows_per_cpu_task) {
  if (device.is_cpu()) return (rows + rows_per_cpu_task - 1) / rows_per_cpu_task;
  return std::min<int64_t>(rows, 4 * 132);
}

}  // namespace ceiling
