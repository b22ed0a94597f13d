// Where the files that tests read lie: the clone, or a bundle, which names its own folder at run
// time.
#pragma once
#include <cstdlib>
#include <string>

#include "source_dir_path.h"  // written by CMake

namespace ceiling {

inline std::string source_dir() {
  const char* moved = std::getenv("CEILING_SOURCE_DIR");
  return moved ? moved : CEILING_SOURCE_DIR;
}

}  // namespace ceiling
