// Held for the life of the process: two trainings in one folder would mix their checkpoints.
#pragma once
#include <string>

#include "base/files.h"

namespace ceiling {

class RunLock {
 public:
  explicit RunLock(const std::string& run_dir);  // Error if another process holds it

 private:
  File file_;
};

}  // namespace ceiling
