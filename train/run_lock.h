// Held for the life of the process: two trainings in one folder would mix their checkpoints.
#pragma once
#include <string>

#include "base/files.h"

namespace ceiling {

class RunLock {
 public:
  // Error if another process holds it. `key` is the setting that names the folder.
  explicit RunLock(const std::string& dir, const std::string& key = "run.dir");

 private:
  File file_;
};

}  // namespace ceiling
