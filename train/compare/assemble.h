// From the folders of finished runs to results.json.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "train/compare/measure.h"
#include "train/compare/plan.h"
#include "train/compare/results.h"

namespace ceiling {

// Where a run that diverged is noted, so that it is not made again, and what it said.
std::string failure_file(const PlannedRun& run);
std::optional<std::string> failure_of(const PlannedRun& run);

// The rate whose run of the grid ends best: the lowest loss; on a task the highest accuracy, then
// the lowest loss. Nothing if all have diverged.
std::optional<double> best_rate(const Plan& plan, size_t contender);

// At the context of training.
double training_tokens_per_s(const Comparison& comparison,
                             const std::vector<TrainingSpeed>& speeds);

// `judged`: all runs at best rates. Sets neither command nor device.
ComparisonResults assemble_results(const Comparison& comparison, const Plan& plan,
                                   const Measurements& measurements,
                                   const std::vector<PlannedRun>& judged);

// The contract, the contenders as matched, and how many runs there will be.
std::string comparison_text(const Comparison& comparison, const Plan& plan);

}  // namespace ceiling
