// What the ranks tell each other once per step, so that all take the same decision: update, skip,
// stop.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/loader.h"
#include "parallel/communicator.h"

namespace ceiling {

// One rank's numbers of a step.
struct StepReport {
  double loss_sum = 0;      // this rank's part of the loss, as the micro-steps scaled it
  double squared_norm = 0;  // this rank's share of the gradients'
  int64_t n_targets = 0, first_position = 0, n_samples = 0;
  uint64_t digest = 0;
  int signal = 0;  // asked to stop
  bool out_of_time = false;
};

// All ranks', in rank order.
class StepReports {
 public:
  // Every rank must call it; all get the same.
  static StepReports exchange(Communicator& world, const StepReport& mine);

  StepReport total() const;  // sums; `signal` the first that any rank received
  // The rank to name when a step is bad: the first whose loss is not finite, or else the one with
  // the highest loss per target.
  int64_t worst_rank() const;
  // "samples 120 to 127 (rank 1)" of that rank.
  std::string worst_samples() const;
  const std::vector<StepReport>& ranks() const { return ranks_; }

 private:
  std::vector<StepReport> ranks_;
};

}  // namespace ceiling
