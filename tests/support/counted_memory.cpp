#include "tests/support/counted_memory.h"

#include <c10/core/Allocator.h>

namespace ceiling {

class CountedMemory::Counter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*data*/, int64_t bytes, size_t /*allocated*/, size_t /*reserved*/,
                         c10::Device /*device*/) override {
    held += bytes;
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t held = 0;
};

CountedMemory::CountedMemory()
    : counter_(std::make_shared<Counter>()), guard_(c10::DebugInfoKind::PROFILER_STATE, counter_) {}
CountedMemory::~CountedMemory() = default;
int64_t CountedMemory::held() const { return counter_->held; }

}  // namespace ceiling
