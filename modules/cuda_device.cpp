// Part of libceiling_cuda.so: the runtime functions that the program reaches through it.
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include "modules/ops/device.h"

namespace ceiling {
namespace {

[[maybe_unused]] const bool registered = [] {
  cuda_runtime.current_stream = [](int device) -> void* {
    return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream();
  };
  cuda_runtime.device_name = [](int device) -> std::string {
    cudaDeviceProp properties{};
    return cudaGetDeviceProperties(&properties, device) == cudaSuccess ? properties.name
                                                                       : "unknown GPU";
  };
  return true;
}();

}  // namespace
}  // namespace ceiling
