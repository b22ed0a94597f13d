#include "checkpoints/commit_replacing.h"

namespace ceiling {

void commit_replacing(PendingFolder& pending, const std::string& final_path) {
  const std::string aside = final_path + ".tmp-replaced";
  std::error_code ignored;
  fs::remove_all(aside, ignored);
  const bool replaces = fs::exists(final_path);
  if (replaces) fs::rename(final_path, aside);
  try {
    pending.commit();
  } catch (...) {
    if (replaces) fs::rename(aside, final_path, ignored);
    throw;
  }
  if (replaces) fs::remove_all(aside, ignored);
}

}  // namespace ceiling
