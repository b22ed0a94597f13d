// How much memory tensors hold.
#pragma once
#include <c10/util/ThreadLocalDebugInfo.h>

#include <cstdint>
#include <memory>

namespace ceiling {

// Counts what this thread allocates on the CPU for tensors, less what it frees, while it lives.
class CountedMemory {
 public:
  CountedMemory();
  ~CountedMemory();
  int64_t held() const;  // bytes

 private:
  class Counter;
  std::shared_ptr<Counter> counter_;
  c10::DebugInfoGuard guard_;
};

}  // namespace ceiling
