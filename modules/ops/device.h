// Devices, and the way to kernels that live in libceiling_cuda.so. The program itself links no
// CUDA: the library is opened when a GPU is to be used, and fills the slots below. So one binary
// runs with and without a GPU and starts quickly without.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "modules/ops/cuda_kernel.h"

namespace ceiling {

// "cpu", "cuda", or "auto": a GPU if there is one that can be used, and of several the one of this
// index. Error for "cuda" where none is, saying why.
at::Device pick_device(const std::string& name, int64_t index = 0);

// Opens libceiling_cuda.so; before anything asks torch about GPUs. Returns why that is not
// possible, or nothing.
std::string load_cuda();

// GPUs that can be used, 0 without any.
int64_t n_devices();
// Allocations of this thread go to the device from now on. Error if there is none of this index.
void use_device(at::Device device);
std::string device_name(at::Device device);  // "NVIDIA H100 80GB HBM3"; of a processor "... (cpu)"
// Names the device, its driver and the code that runs on it: changes when any of them does.
std::string device_fingerprint(at::Device device);
void synchronize(at::Device device);  // waits for all work; nothing on a CPU

// GPU work recorded once, to be repeated on the same memory.
class CapturedWork {
 public:
  virtual ~CapturedWork() = default;
  virtual void replay() = 0;
};
// Records what `work` launches on the current stream, which must not be the default one; nothing is
// executed. `work` must have run before, must not wait for the device, and keeps its memory; which
// it shares with `beside`, if given: the two are never replayed at the same time, and what one
// leaves in that memory the other may overwrite.
std::unique_ptr<CapturedWork> capture_work(const std::function<void()>& work,
                                           const CapturedWork* beside = nullptr);

// Functions of the CUDA runtime that the program reaches through the library.
struct CudaRuntime {
  void* (*current_stream)(int device) = nullptr;  // cudaStream_t
  std::string (*device_name)(int device) = nullptr;
  int (*driver_version)() = nullptr;
  std::unique_ptr<CapturedWork> (*capture)(const std::function<void()>& work,
                                           const CapturedWork* beside) = nullptr;
};
inline CudaRuntime cuda_runtime;

void* current_stream(at::Device device);  // cudaStream_t

// Work that a GPU may do beside that of its current stream: several kernels of few blocks each fill
// the device together. On a CPU all is done in order.
//   Beside q(device, 0);         its work waits for what the current stream has been given so far
//   ...                          work of the current stream, which must not need that of q
//   q.run([&] { ... });          launches beside it
//   q.join();                    what the current stream is given from now on waits for q
// Memory that run() allocates belongs to the other stream, and may be freed at any time after
// join(): it is given out again only after another Beside has begun, that is, has waited.
class Beside {
 public:
  // Of those at work at the same time each has its own `which`.
  Beside(at::Device device, int which);
  ~Beside();
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;
  void wait();  // for the current stream, again
  void run(const std::function<void()>& work);
  void join();

 private:
  std::optional<c10::Stream> stream_;  // none on a CPU
  bool joined_ = true;
};

// Launches on the current stream of the tensor's device.
template <class Params>
void launch(const CudaKernel<Params>& kernel, const Params& params, const at::Tensor& on) {
  void* stream = current_stream(on.device());
  TORCH_INTERNAL_ASSERT(kernel.launch, "libceiling_cuda.so lacks a kernel");
  kernel.launch(params, stream);
}

}  // namespace ceiling
