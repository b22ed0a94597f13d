#include "train/compare/plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

Plan::Plan(const Comparison& comparison, std::vector<MatchedContender> contenders)
    : comparison_(comparison), contenders_(std::move(contenders)) {
  const RunConfig shared = comparison.recipe_with(contenders_.front().model);
  steps_ = shared.total_steps(), first_seed_ = shared.run.seed;
}

PlannedRun Plan::run(size_t contender, const std::string& budget, double lr, int64_t seed,
                     int64_t steps) const {
  PlannedRun run;
  const auto named = [&](const std::string& kind) {
    return fmt::format("{}/{}-lr-{}-seed-{}", contenders_[contender].name, kind, format_double(lr),
                       seed);
  };
  run.name = named(budget);
  run.contender = contender, run.budget = budget, run.lr = lr, run.seed = seed, run.steps = steps;
  const std::string& dir = comparison_.compare.dir;
  const std::string stands_for = steps == steps_ ? named("tokens") : run.name;
  run.dir = dir + "/runs/" + stands_for;
  run.config = run.dir + ".yaml";
  run.evaluation = dir + "/measured/" + stands_for + ".json";
  return run;
}

std::vector<PlannedRun> Plan::grid() const {
  std::vector<PlannedRun> runs;
  for (const double lr : comparison_.compare.lr)
    for (size_t contender = 0; contender < contenders_.size(); ++contender)
      runs.push_back(run(contender, "tokens", lr, first_seed_, steps_));
  return runs;
}

std::vector<std::string> Plan::budgets() const {
  const auto& wanted = comparison_.compare.budgets;
  std::vector<std::string> all = {"tokens"};
  for (const char* budget : {"flops", "time"})
    if (std::find(wanted.begin(), wanted.end(), budget) != wanted.end()) all.push_back(budget);
  return all;
}

std::vector<PlannedRun> Plan::judged(size_t contender, double best_lr,
                                     const std::vector<StepCost>& costs) const {
  const std::vector<std::string> all = budgets();
  const auto wants = [&](const char* budget) {
    return std::find(all.begin(), all.end(), budget) != all.end();
  };
  const auto buys = [&](double first, double own) {
    return std::max<int64_t>(1, std::llround(static_cast<double>(steps_) * first / own));
  };
  std::vector<PlannedRun> runs;
  for (int64_t seed = first_seed_; seed < first_seed_ + comparison_.compare.seeds; ++seed) {
    runs.push_back(run(contender, "tokens", best_lr, seed, steps_));
    if (wants("flops"))
      runs.push_back(
          run(contender, "flops", best_lr, seed, buys(costs[0].flops, costs[contender].flops)));
    if (wants("time"))
      runs.push_back(
          run(contender, "time", best_lr, seed, buys(costs[0].seconds, costs[contender].seconds)));
  }
  return runs;
}

RunConfig Plan::config(const PlannedRun& run) const {
  return comparison_.run(contenders_[run.contender].model, run.dir, run.lr, run.seed, run.steps);
}

}  // namespace ceiling
