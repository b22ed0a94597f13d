#include "modules/ops/bench.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <chrono>

#include "base/stop.h"
#include "modules/ops/device.h"

namespace ceiling {

namespace {
struct Bench {
  std::string op;
  std::function<void(BenchReport&)> run;
};
// Bytes allocated now; the peak is counted from here on.
double reset_peak_bytes(at::Device device) {
  if (device.is_cpu()) return 0;
  auto* allocator = at::getDeviceAllocator(device.type());
  allocator->resetPeakStats(device.index());
  return static_cast<double>(allocator->getDeviceStats(device.index()).allocated_bytes[0].current);
}
double peak_bytes(at::Device device) {
  if (device.is_cpu()) return 0;
  return static_cast<double>(at::getDeviceAllocator(device.type())
                                 ->getDeviceStats(device.index())
                                 .allocated_bytes[0]
                                 .peak);
}

std::vector<Bench>& benches() {
  static std::vector<Bench> all;
  return all;
}
}  // namespace

RegisterBench::RegisterBench(std::string op, std::function<void(BenchReport&)> run) {
  benches().push_back({std::move(op), std::move(run)});
}

void BenchReport::time(BenchRow row, const std::function<void()>& run) {
  stop::check();
  const auto milliseconds = [&](int64_t times) {
    synchronize(device_);
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < times; ++i) run();
    synchronize(device_);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
               .count() /
           static_cast<double>(times);
  };
  for (int i = 0; i < 3; ++i) milliseconds(1);
  const double before = reset_peak_bytes(device_);
  // On a GPU several runs at a time, about 20 ms: the wait at the end and the first launch would
  // count otherwise.
  const double first = milliseconds(1);
  row.peak_bytes = peak_bytes(device_) - before;
  const int64_t times =
      device_.is_cpu() ? 1 : std::clamp<int64_t>(static_cast<int64_t>(20 / first), 1, 200);
  // At least 5 measurements, at most 100, about a second.
  std::vector<double> ms;
  for (double spent = 0; ms.size() < 5 || (ms.size() < 100 && spent < 1000);) {
    ms.push_back(milliseconds(times));
    spent += ms.back() * static_cast<double>(times);
  }
  std::nth_element(ms.begin(), ms.begin() + static_cast<int64_t>(ms.size() / 2), ms.end());
  row.ms = ms[ms.size() / 2];
  rows_.push_back(std::move(row));
}

void run_benches(const std::string& filter, BenchReport& report) {
  std::sort(benches().begin(), benches().end(),
            [](const Bench& a, const Bench& b) { return a.op < b.op; });
  for (const Bench& bench : benches())
    if (bench.op.find(filter) != std::string::npos) bench.run(report);
}

}  // namespace ceiling
