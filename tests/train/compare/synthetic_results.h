// Made-up results of a comparison, as a runner would write them.
#pragma once
#include "train/compare/results.h"

namespace ceiling {

struct SyntheticOptions {
  int64_t seeds = 2;
  std::string task;  // "": text
};

// Five contenders, three budgets: loss curves that fall, grids with failed rates and best rates at
// the edge, names that need escaping, one contender without decoding or recall, and one whose every
// rate failed. The same for equal options.
ComparisonResults synthetic_results(const SyntheticOptions& options = {});

}  // namespace ceiling
