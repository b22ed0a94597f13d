// What ops share: argument checks and the way from tensors to kernels.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "base/error.h"
#include "modules/ops/cpu_isa.h"

namespace ceiling {

// kDouble, kFloat or kBFloat16; Error naming the op otherwise.
inline CpuType cpu_type(const at::Tensor& tensor, const char* op) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return CpuType::kDouble;
    case at::kFloat:
      return CpuType::kFloat;
    case at::kBFloat16:
      return CpuType::kBFloat16;
    default:
      throw Error("{}: {} is not supported; use float64, float32 or bfloat16", op,
                  c10::toString(tensor.scalar_type()));
  }
}

// The dtype of statistics, states and weight gradients: float64 for float64, else float32.
inline at::ScalarType wide_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// For arguments of an autograd Function, which takes no undefined tensor.
inline std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

// Whether a kernel that takes whole pieces of 16 bytes along the last dimension can read x. Strides
// of a single row count, too: kernels form the addresses of rows that are not there.
inline bool has_rows_of_pieces(const at::Tensor& x) {
  const int64_t last = x.dim() - 1;
  bool ready = x.stride(last) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (int64_t dim = 0; dim < last; ++dim)
    ready = ready && x.stride(dim) * x.element_size() % 16 == 0;
  return ready;
}
// x, copied where one could not.
inline at::Tensor rows_of_pieces(const at::Tensor& x) {
  return has_rows_of_pieces(x) ? x : x.clone(at::MemoryFormat::Contiguous);
}

// Rows per task, so that a task is worth its start: about 16k elements.
inline int64_t row_grain(int64_t row_size) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(row_size, 1));
}

}  // namespace ceiling
