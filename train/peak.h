// The arithmetic peak that MFU is measured against.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace ceiling {

struct Peak {
  double flops_per_s = 0;  // dense matrix products in the compute dtype
  std::string source;  // "H100 SXM data sheet, bf16 dense", "measured: 1024^3 matrix product, fp32,
                       // 2 threads"
  int measurements_left = 0;  // 0 of what stands in a data sheet
};

// Of a known GPU from its data sheet; otherwise measured as the fastest of matrix products (0.3 s:
// a neighbour on the machine, or a clock still low, must not set what all steps are held against).
Peak peak_of(at::Device device, at::ScalarType compute);

// Of the peak, MFU of work that does so many FLOPs a second; 0 if there is none. Work that exceeds
// a measured peak shows that something else ran during all of those 0.3 s: then it is measured
// again, at most three times in a run.
double utilisation(Peak& peak, double flops_per_s, at::Device device, at::ScalarType compute);

}  // namespace ceiling
