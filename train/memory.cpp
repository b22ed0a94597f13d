#include "train/memory.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <unistd.h>

#include <fstream>

namespace ceiling {

namespace {
c10::DeviceIndex index_of(at::Device device) {
  return device.has_index() ? device.index() : c10::DeviceIndex{0};
}
}  // namespace

double memory_bytes(at::Device device) {
  if (!device.is_cpu()) {
    const auto stats = at::getDeviceAllocator(device.type())->getDeviceStats(index_of(device));
    return static_cast<double>(stats.allocated_bytes[0].peak);  // 0: the aggregate over pools
  }
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

void reset_peak_memory(at::Device device) {
  if (!device.is_cpu()) at::getDeviceAllocator(device.type())->resetPeakStats(index_of(device));
}

double memory_total_bytes(at::Device device) {
  if (!device.is_cpu())
    return static_cast<double>(
        at::getDeviceAllocator(device.type())->getMemoryInfo(index_of(device)).second);
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<double>(::sysconf(_SC_PAGESIZE));
}

}  // namespace ceiling
