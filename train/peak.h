// The arithmetic peak that MFU is measured against.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace ceiling {

struct Peak {
  double flops_per_s = 0;  // dense matrix products in the compute dtype
  std::string source;  // "H100 SXM data sheet, bf16 dense", "measured: 1024^3 matrix product, fp32,
                       // 2 threads"
};

// Of a known GPU from its data sheet; otherwise measured with a matrix product (about 0.1 s).
Peak peak_of(at::Device device, at::ScalarType compute);

}  // namespace ceiling
