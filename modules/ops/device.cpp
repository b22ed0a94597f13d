#include "modules/ops/device.h"

#include <ATen/Context.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/hash.h"
#include "modules/ops/cpu_isa.h"

namespace ceiling {

namespace {

bool has_gpu_node() {
  return std::filesystem::exists("/dev/nvidiactl") || std::filesystem::exists("/dev/nvidia0");
}

std::string beside_program(const std::string& path) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / path;
}

// dlopen once; the text is empty if it worked.
const std::string& cuda_library() {
  static const std::string failure = []() -> std::string {
    // By name: the program's RPATH has its lib folder, and the library's own RPATH has torch.
    const std::string beside = beside_program("lib/libceiling_cuda.so");
    if (!std::filesystem::exists(beside))
      return "this build has no CUDA library (" + beside + "); build where nvcc is installed";
    if (!dlopen(beside.c_str(), RTLD_NOW | RTLD_GLOBAL)) return dlerror();
    return "";
  }();
  return failure;
}

}  // namespace

std::string load_cuda() {
  if (!cuda_library().empty()) return cuda_library();
  return at::globalContext().hasCUDA()
             ? ""
             : "torch finds no usable GPU (see nvidia-smi, and CUDA_VISIBLE_DEVICES)";
}

at::Device pick_device(const std::string& name, int64_t index) {
  if (name == "cpu" || (name == "auto" && !has_gpu_node())) return at::kCPU;
  const std::string problem = load_cuda();
  if (problem.empty()) {
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
    use_device(device);
    return device;
  }
  if (name == "auto") return at::kCPU;
  throw Error("device cuda: {}", problem);
}

namespace {
int index_of(at::Device device) { return device.has_index() ? device.index() : 0; }
}  // namespace

void* current_stream(at::Device device) { return cuda_runtime.current_stream(index_of(device)); }

namespace {
// The same ones each time: the allocator keeps free memory for each stream apart.
c10::Stream side_stream(at::Device device, int which) {
  thread_local std::map<std::pair<int, int>, c10::Stream> streams;
  const std::pair<int, int> key(index_of(device), which);
  auto found = streams.find(key);
  if (found == streams.end())
    found = streams
                .emplace(key, c10::impl::VirtualGuardImpl(device.type())
                                  .getStreamFromGlobalPool(device, /*isHighPriority=*/false))
                .first;
  return found->second;
}

// What `after` is given from now on waits for what `before` has been given.
void order(const c10::Stream& before, const c10::Stream& after) {
  c10::Event event(before.device_type());
  event.record(before);
  event.block(after);
}

c10::Stream current(const c10::Stream& beside) {
  return c10::impl::VirtualGuardImpl(beside.device_type()).getStream(beside.device());
}
}  // namespace

Beside::Beside(at::Device device, int which) {
  if (device.type() != at::kCUDA) return;
  stream_ = side_stream(device, which);
  wait();
}

Beside::~Beside() {
  try {
    join();
  } catch (const std::exception&) {
    // Not joined yet, so an error is on its way that came before this one.
  }
}

void Beside::wait() {
  if (stream_) order(current(*stream_), *stream_), joined_ = false;
}

void Beside::run(const std::function<void()>& work) {
  if (!stream_) return work();
  const c10::StreamGuard guard(*stream_);
  work();
}

void Beside::join() {
  if (!joined_) order(*stream_, current(*stream_)), joined_ = true;
}

std::unique_ptr<CapturedWork> capture_work(const std::function<void()>& work,
                                           const CapturedWork* beside) {
  return cuda_runtime.capture(work, beside);
}

int64_t n_devices() {
  return load_cuda().empty() ? c10::impl::VirtualGuardImpl(at::kCUDA).deviceCount() : 0;
}

void use_device(at::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl gpus(device.type());
  if (device.index() >= gpus.deviceCount())
    throw Error(
        "GPU {} is wanted (local rank {}), and this host has {} that can be used; start "
        "fewer processes, or see CUDA_VISIBLE_DEVICES",
        static_cast<int>(device.index()), static_cast<int>(device.index()),
        static_cast<int>(gpus.deviceCount()));
  gpus.setDevice(device);
}

std::string device_name(at::Device device) {
  if (!device.is_cpu()) return cuda_runtime.device_name(index_of(device));
  static const std::string name = [] {
    std::ifstream processors("/proc/cpuinfo");
    for (std::string line; std::getline(processors, line);)
      if (line.starts_with("model name")) {
        const size_t colon = line.find(": ");
        if (colon != std::string::npos) return line.substr(colon + 2) + " (cpu)";
      }
    return std::string("cpu");
  }();
  return name;
}

std::string device_fingerprint(at::Device device) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  Sha256 hash;
  hash.update(device_name(device)).update(sha256_file(program));
  if (device.is_cpu()) return hash.update(std::to_string(static_cast<int>(cpu_isa()))).hex();
  return hash.update(std::to_string(cuda_runtime.driver_version()))
      .update(sha256_file(beside_program("lib/libceiling_cuda.so")))
      .hex();
}

void synchronize(at::Device device) {
  if (!device.is_cpu())
    c10::impl::VirtualGuardImpl(device.type())
        .synchronizeDevice(static_cast<c10::DeviceIndex>(index_of(device)));
}

}  // namespace ceiling
