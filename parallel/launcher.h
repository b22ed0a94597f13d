// Ranks on this host, started and looked after by ceiling itself.
#pragma once
#include <cstdint>

namespace ceiling {

// Runs this very command again in `n_ranks` processes, which find each other by the environment,
// and waits for them. Requests to stop are passed on; if a process fails, the others are given a
// while to notice and are then ended; if this process dies, they stop as if asked to. Returns what
// the first process that failed returned, or else what all did.
int launch_ranks(int64_t n_ranks);

}  // namespace ceiling
