// How sweeps (sweep.h) on a GPU cut time into segments that run side by side (cuda.h).
#pragma once
#include "modules/ops/retention/cuda.h"

namespace ceiling {

struct Cut {
  int64_t segments = 1, parts = 1;  // of this sweep, and of each segment in its first pass
  int64_t recorded = 1;  // segments of the next sweep, whose states this one notes down on its way
  // Of one segment: blocks that share all visits evenly, as there are more slices of heads than run
  // side by side; 0: a block for each slice.
  int64_t dealt_blocks = 0;
};

// The cheapest for this sweep and for the next, which takes its states: of retention one whose
// states are the transposes, of ssd (`same_next`) one of the same shape.
Cut cheapest_cut(const SweepShape& of, int64_t seq_len, bool same_next);

}  // namespace ceiling
