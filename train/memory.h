// Memory in use: of the process on a CPU, of the caching allocator on a GPU.
#pragma once
#include <ATen/core/Tensor.h>

namespace ceiling {

double memory_bytes(
    at::Device device);  // now (CPU: resident set; GPU: peak allocated since the last reset)
void reset_peak_memory(at::Device device);     // GPU only
double memory_total_bytes(at::Device device);  // of the machine or the card; 0 unknown

}  // namespace ceiling
