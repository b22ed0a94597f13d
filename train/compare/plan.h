// Which runs a comparison consists of, and where each lies.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "train/compare/match.h"
#include "train/compare/spec.h"

namespace ceiling {

struct PlannedRun {
  std::string name;  // "retnet/tokens-lr-0.002-seed-1", below DIR/runs
  size_t contender = 0;
  std::string budget;  // tokens, flops, time
  double lr = 0;
  int64_t seed = 0, steps = 0;
  std::string dir;         // DIR/runs/<name>
  std::string config;      // DIR/runs/<name>.yaml, which `ceiling train` takes
  std::string evaluation;  // DIR/measured/<name>.json
};

// What one contender's steps cost, to find how many another's budget buys.
struct StepCost {
  double flops = 0, seconds = 0;  // of a training step; seconds 0: not measured
};

class Plan {
 public:
  Plan(const Comparison& comparison, std::vector<MatchedContender> contenders);

  const std::vector<MatchedContender>& contenders() const { return contenders_; }
  // Those that runs are judged at: tokens, and what else the file asks for.
  std::vector<std::string> budgets() const;
  // Every rate of the grid, once.
  std::vector<PlannedRun> grid() const;
  // The runs that are judged: at its best rate, for each seed and budget. The grid's run is the one
  // of the first seed. Where a budget buys just the steps of equal tokens, its run is that of equal
  // tokens, in the same folder.
  std::vector<PlannedRun> judged(size_t contender, double best_lr,
                                 const std::vector<StepCost>& costs) const;
  RunConfig config(const PlannedRun& run) const;
  int64_t steps() const { return steps_; }

 private:
  PlannedRun run(size_t contender, const std::string& budget, double lr, int64_t seed,
                 int64_t steps) const;
  const Comparison& comparison_;
  std::vector<MatchedContender> contenders_;
  int64_t steps_, first_seed_;
};

}  // namespace ceiling
