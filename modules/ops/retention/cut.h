// How sweeps (sweep.h) on a GPU cut time into segments that run side by side (cuda.h).
#pragma once
#include <cstdint>

namespace ceiling {

struct Cut {
  int64_t segments = 1, parts = 1;  // of this sweep, and of each segment in its first pass
  int64_t recorded = 1;  // segments of the next sweep, whose states this one notes down on its way
};

// The cheapest for this sweep and for the next, which takes its states: of retention one whose
// states are the transposes, of ssd (`same_next`) one of the same shape.
// `heads`: of all rows. m_dim, n_dim: of query and value; skip: whether out gains a value of its
// own.
Cut cheapest_cut(int64_t heads, int64_t m_dim, int64_t n_dim, int64_t seq_len, bool skip,
                 bool same_next);

}  // namespace ceiling
