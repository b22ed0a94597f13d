// Commits a pending folder where something of its name may exist already.
#pragma once
#include <string>

#include "base/files.h"

namespace ceiling {

// The old folder makes way only for the moment of the rename, and comes back if that fails.
void commit_replacing(PendingFolder& pending, const std::string& final_path);

}  // namespace ceiling
