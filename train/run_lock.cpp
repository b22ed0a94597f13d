#include "train/run_lock.h"

#include <sys/file.h>

#include "base/error.h"

namespace ceiling {

RunLock::RunLock(const std::string& dir, const std::string& key) : file_(dir + "/.lock", "ab") {
  if (::flock(file_.descriptor(), LOCK_EX | LOCK_NB) != 0)
    throw Error("{}: another ceiling is at work in this folder; wait for it, or set another {}",
                dir, key);
}

}  // namespace ceiling
