#include "modules/ops/retention/cut.h"

#include <algorithm>

namespace ceiling {

namespace {

// What a sweep takes, in visits of a block to a unit of time (kSweepUnit), where time is cut into
// `segments`: rounds of the blocks that run side by side, each of which has a state to read as
// well. The first pass, if there is one, reads key and value alone.
constexpr double kOfState = 2, kOfFirstPass = 0.55;
constexpr double kWorthDealing = 0.95;  // of the time that a block for each slice takes

double rounds(const SweepTiling& tiling, int64_t blocks) {
  return static_cast<double>((blocks + tiling.resident_blocks - 1) / tiling.resident_blocks);
}
// Without the first pass.
double visits(const SweepTiling& tiling, int64_t blocks, int64_t units, int64_t segments) {
  const double each = static_cast<double>((units + segments - 1) / segments) + kOfState;
  return static_cast<double>(tiling.launches) * each * rounds(tiling, blocks * segments);
}
// One segment: a block for each slice, or, of more slices than run side by side, shares.
struct Uncut {
  double visits;
  int64_t dealt_blocks = 0;
};
Uncut cheapest_uncut(const SweepShape& of, const SweepTiling& tiling, int64_t blocks,
                     int64_t units) {
  const double each = visits(tiling, blocks, units, 1);
  if (of.kernel() != SweepKernel::kWide || tiling.launches > 1 || blocks <= tiling.resident_blocks)
    return {each};
  // A block reads the states of its slices, hands one on and takes one.
  const double slices = static_cast<double>(blocks) / static_cast<double>(tiling.resident_blocks);
  const double dealt = static_cast<double>(units) * slices + kOfState * (slices + 2);
  return dealt < kWorthDealing * each ? Uncut{dealt, tiling.resident_blocks} : Uncut{each};
}
// Of the first pass, with each segment in so many parts.
double first_visits(const SweepTiling& tiling, int64_t blocks, int64_t units, int64_t segments,
                    int64_t parts) {
  if (segments == 1) return 0;
  const int64_t each = (units + segments - 1) / segments;
  return static_cast<double>(tiling.launches) *
         (kOfFirstPass * static_cast<double>((each + parts - 1) / parts) + kOfState) *
         rounds(tiling, blocks * (segments - 1) * parts);
}

}  // namespace

Cut cheapest_cut(const SweepShape& of, int64_t seq_len, bool same_next) {
  SweepShape of_next = of;
  if (!same_next) of_next.m_dim = of.n_dim, of_next.n_dim = of.m_dim;
  const SweepTiling own = sweep_tiling(of), next = sweep_tiling(of_next);
  const auto blocks = [&](const SweepTiling& tiling, int64_t width) {
    return of.heads / tiling.heads * ((width + tiling.slice - 1) / tiling.slice);
  };
  const int64_t own_blocks = blocks(own, of.n_dim), next_blocks = blocks(next, of_next.n_dim);
  const int64_t units = (seq_len + kSweepUnit - 1) / kSweepUnit;
  const Uncut uncut = cheapest_uncut(of, own, own_blocks, units);
  Cut best{.dealt_blocks = uncut.dealt_blocks};
  double least = uncut.visits + cheapest_uncut(of_next, next, next_blocks, units).visits;
  const auto consider = [&](const Cut& cut, double all) {
    if (all < least) best = cut, least = all;
  };
  // Of at least two units.
  constexpr int64_t kMost = 64, kMostParts = 4;
  for (int64_t segments = 2; segments <= std::min(kMost, (units + 1) / 2); ++segments) {
    const int64_t each = (units + segments - 1) / segments;
    if ((segments - 1) * each >= units) continue;  // the last would be empty
    const double at_next = visits(next, next_blocks, units, segments);
    for (int64_t parts = 1; parts <= std::min(kMostParts, each); ++parts)
      consider({segments, parts, 1, 0}, visits(own, own_blocks, units, segments) +
                                            first_visits(own, own_blocks, units, segments, parts) +
                                            at_next);
    const double noting = kOfState * static_cast<double>(segments) * rounds(own, own_blocks);
    const bool notes =
        of.kernel() == SweepKernel::kWide || (of.kernel() == SweepKernel::kPairs && of.skip);
    if (notes) consider({1, 1, segments, uncut.dealt_blocks}, uncut.visits + noting + at_next);
  }
  return best;
}

}  // namespace ceiling
