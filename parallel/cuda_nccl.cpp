// Part of libceiling_cuda.so: collectives by NCCL, on the library that torch brings. Its functions
// are looked up by name: the wheel ships libnccl.so.2 and no nccl.h, and c10d's ProcessGroupNCCL
// cannot be compiled against without one.
//
// A kernel of NCCL whose peer has died spins for ever. So one thread watches the connections to all
// peers and NCCL's own errors; if a rank is gone, or the device stands still for too long, it ends
// the kernels by ncclCommAbort, and check() says why.
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "modules/ops/device.h"
#include "parallel/communicator.h"

namespace ceiling {
namespace {

// The part of NCCL's stable C interface that is used (NCCL API, "Types" and "Collective
// Communication Functions").
struct UniqueId {
  char bytes[128];
};
using Comm = void*;
using Stream = void*;
enum Result : int { kSuccess = 0, kInProgress = 7 };
enum ReduceOp : int { kSum = 0 };

struct Nccl {
  Result (*get_version)(int*);
  Result (*get_unique_id)(UniqueId*);
  Result (*comm_init_rank)(Comm*, int n_ranks, UniqueId, int rank);
  Result (*comm_abort)(Comm);
  Result (*comm_destroy)(Comm);
  Result (*comm_get_async_error)(Comm, Result*);
  const char* (*get_error_string)(Result);
  const char* (*get_last_error)(Comm);
  Result (*all_reduce)(const void*, void*, size_t, int, ReduceOp, Comm, Stream);
  Result (*reduce_scatter)(const void*, void*, size_t, int, ReduceOp, Comm, Stream);
  Result (*all_gather)(const void*, void*, size_t, int, Comm, Stream);
  Result (*broadcast)(const void*, void*, size_t, int, int root, Comm, Stream);
};

const Nccl& nccl() {
  static const Nccl functions = [] {
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD);
    if (!library) library = dlopen("libnccl.so.2", RTLD_NOW);
    if (!library) throw Error("NCCL is missing: {}", dlerror());
    Nccl f{};
    const auto load = [&](auto& function, const char* name) {
      void* symbol = dlsym(library, name);
      if (!symbol) throw Error("libnccl.so.2 has no {}", name);
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    };
    load(f.get_version, "ncclGetVersion");
    load(f.get_unique_id, "ncclGetUniqueId");
    load(f.comm_init_rank, "ncclCommInitRank");
    load(f.comm_abort, "ncclCommAbort");
    load(f.comm_destroy, "ncclCommDestroy");
    load(f.comm_get_async_error, "ncclCommGetAsyncError");
    load(f.get_error_string, "ncclGetErrorString");
    load(f.get_last_error, "ncclGetLastError");
    load(f.all_reduce, "ncclAllReduce");
    load(f.reduce_scatter, "ncclReduceScatter");
    load(f.all_gather, "ncclAllGather");
    load(f.broadcast, "ncclBroadcast");
    return f;
  }();
  return functions;
}

int data_type(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return 1;
    case at::kInt:
      return 2;
    case at::kLong:
      return 4;
    case at::kFloat:
      return 7;
    case at::kDouble:
      return 8;
    case at::kBFloat16:
      return 9;
    default:
      TORCH_INTERNAL_ASSERT(false, "no NCCL type for ", c10::toString(type));
  }
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<Peers> peers, at::Device device, double timeout_s)
      : peers_(std::move(peers)), device_(device), timeout_s_(timeout_s) {
    const c10::cuda::CUDAGuard guard(device_);
    UniqueId id{};
    if (peers_->rank() == 0) require(nccl().get_unique_id(&id), "ncclGetUniqueId");
    const std::string sent(id.bytes, sizeof id.bytes);
    const std::string received = peers_->gather(sent, "the start of NCCL")[0];
    std::memcpy(id.bytes, received.data(), sizeof id.bytes);
    busy_since_ = now_s();
    watchdog_ = std::thread([this] { watch(); });
    const Result result = nccl().comm_init_rank(&comm_, static_cast<int>(peers_->size()), id,
                                                static_cast<int>(peers_->rank()));
    busy_since_ = 0;
    if (result != kSuccess) {
      const std::string why = reason(result);
      stop_watching();
      throw Error(
          "NCCL does not start on rank {}: {}. NCCL_DEBUG=INFO tells more; in a container, "
          "/dev/shm may be too small (NCCL wants about 64 MiB per GPU: --shm-size)",
          peers_->rank(), why);
    }
    ready_ = true;
  }

  ~NcclCommunicator() override {
    stop_watching();
    const std::lock_guard lock(mutex_);
    if (comm_ && !aborted_) nccl().comm_destroy(comm_);
  }

  int64_t rank() const override { return peers_->rank(); }
  int64_t size() const override { return peers_->size(); }

  void all_reduce(at::Tensor& sum) override {
    queue("all-reduce", nccl().all_reduce(sum.data_ptr(), sum.data_ptr(), count(sum),
                                          data_type(sum.scalar_type()), kSum, comm_, stream()));
  }
  void reduce_scatter(at::Tensor& out, const at::Tensor& in) override {
    queue("reduce-scatter",
          nccl().reduce_scatter(in.data_ptr(), out.data_ptr(), count(out),
                                data_type(in.scalar_type()), kSum, comm_, stream()));
  }
  void all_gather(at::Tensor& out, const at::Tensor& in) override {
    queue("all-gather", nccl().all_gather(in.data_ptr(), out.data_ptr(), count(in),
                                          data_type(in.scalar_type()), comm_, stream()));
  }
  void broadcast(at::Tensor& value, int64_t root) override {
    queue("broadcast", nccl().broadcast(value.data_ptr(), value.data_ptr(), count(value),
                                        data_type(value.scalar_type()), static_cast<int>(root),
                                        comm_, stream()));
  }
  std::vector<std::string> gather(const std::string& mine, const std::string& what) override {
    return peers_->gather(mine, what);
  }
  void set_where(const std::string& where) override {
    peers_->set_where(where);
    busy_since_ = now_s();  // the device has something to do from here to the next check()
  }
  void check() override {
    busy_since_ = 0;
    const std::lock_guard lock(mutex_);
    if (aborted_) throw PeerLost(reason_);
  }

 private:
  static double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  static size_t count(const at::Tensor& tensor) { return static_cast<size_t>(tensor.numel()); }
  Stream stream() const { return current_stream(device_); }
  std::string reason(Result result) const {
    const char* more = nccl().get_last_error(nullptr);
    return fmt::format("{}{}{}", nccl().get_error_string(result), more && *more ? ": " : "",
                       more ? more : "");
  }
  void require(Result result, const char* what) const {
    if (result != kSuccess) throw Error("NCCL: {}: {}", what, reason(result));
  }
  void queue(const char* what, Result result) {
    if (result == kSuccess) return;
    check();
    throw Error("NCCL {} at {}: {}", what, peers_->where(), reason(result));
  }

  void watch() {
    c10::cuda::set_device(device_.index());
    while (!stopping_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      std::string why;
      const double since = busy_since_;
      Result error = kSuccess;
      if (const int64_t lost = peers_->lost(); lost >= 0) {
        try {
          peers_->throw_lost(lost, "NCCL");
        } catch (const PeerLost& gone) {
          why = gone.what();
        }
      } else if (ready_ && nccl().comm_get_async_error(comm_, &error) == kSuccess &&
                 error != kSuccess && error != kInProgress) {
        why = fmt::format("NCCL failed on rank {} at {}: {}", peers_->rank(), peers_->where(),
                          reason(error));
      } else if (since > 0 && now_s() - since > timeout_s_) {
        why = fmt::format(
            "rank {} waits for its GPU since {} s (parallel.timeout), in NCCL at {}: a rank may "
            "be stuck",
            peers_->rank(), static_cast<int64_t>(timeout_s_), peers_->where());
      }
      if (why.empty()) continue;
      if (stopping_) return;
      give_up(why);
      return;
    }
  }

  void give_up(const std::string& why) {
    {
      const std::lock_guard lock(mutex_);
      aborted_ = true;
      reason_ = why;
    }
    if (!ready_) {  // no communicator to abort yet: ncclCommInitRank does not come back
      std::fprintf(stderr, "ceiling: error: %s\n", why.c_str());
      std::_Exit(1);
    }
    nccl().comm_abort(comm_);
    // The main thread comes to check() now. If it does not, it hangs elsewhere.
    for (int i = 0; i < 300 && !stopping_; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (stopping_) return;
    std::fprintf(stderr, "ceiling: error: %s\n", why.c_str());
    std::_Exit(1);
  }

  void stop_watching() {
    stopping_ = true;
    if (watchdog_.joinable()) watchdog_.join();
  }

  std::shared_ptr<Peers> peers_;
  at::Device device_;
  double timeout_s_;
  Comm comm_ = nullptr;
  std::atomic<bool> ready_ = false, stopping_ = false;
  std::atomic<double> busy_since_ = 0;
  std::mutex mutex_;  // guards aborted_ and reason_
  bool aborted_ = false;
  std::string reason_;
  std::thread watchdog_;
};

[[maybe_unused]] const bool registered = [] {
  nccl_communicator = [](std::shared_ptr<Peers> peers, at::Device device,
                         double timeout_s) -> std::unique_ptr<Communicator> {
    return std::make_unique<NcclCommunicator>(std::move(peers), device, timeout_s);
  };
  return true;
}();

}  // namespace
}  // namespace ceiling
