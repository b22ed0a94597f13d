#include "train/run_lock.h"

#include <sys/file.h>

#include "base/error.h"

namespace ceiling {

RunLock::RunLock(const std::string& run_dir) : file_(run_dir + "/.lock", "ab") {
  if (::flock(file_.descriptor(), LOCK_EX | LOCK_NB) != 0)
    throw Error(
        "{}: another ceiling is training in this folder; wait for it, or set another run.dir",
        run_dir);
}

}  // namespace ceiling
