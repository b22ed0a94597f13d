// Part of libceiling_cuda.so: the runtime functions that the program reaches through it.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include "modules/ops/device.h"

namespace ceiling {
namespace {

class Graph final : public CapturedWork {
 public:
  Graph(const std::function<void()>& work, const CapturedWork* beside) {
    const auto* shared = static_cast<const Graph*>(beside);
    // The graph has memory of its own; what earlier runs left in the cache would stay beside it.
    c10::cuda::CUDACachingAllocator::emptyCache();
    // Relaxed: the backward pass launches from autograd's own thread.
    graph_.capture_begin(shared ? shared->pool_ : at::cuda::MempoolId_t{0, 0},
                         cudaStreamCaptureModeRelaxed);
    try {
      work();
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (...) {  // the first error tells more
      }
      throw;
    }
    graph_.capture_end();
    pool_ = graph_.pool();
  }
  void replay() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
  at::cuda::MempoolId_t pool_{0, 0};
};

[[maybe_unused]] const bool registered = [] {
  cuda_runtime.capture = [](const std::function<void()>& work,
                            const CapturedWork* beside) -> std::unique_ptr<CapturedWork> {
    return std::make_unique<Graph>(work, beside);
  };
  cuda_runtime.current_stream = [](int device) -> void* {
    return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream();
  };
  cuda_runtime.driver_version = [] {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
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
