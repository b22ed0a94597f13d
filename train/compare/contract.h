// What must be equal between the runs of a comparison, and the proof that it is.
#pragma once
#include <string>
#include <vector>

#include "train/compare/plan.h"
#include "train/compare/results.h"

namespace ceiling {

// Error unless every run that exists was made with the configuration that the plan gives it (but
// for what cannot change a result), on the dataset as it is now. Names the run, the keys and both
// values.
void require_planned(const Plan& plan, const std::vector<PlannedRun>& runs);

// Removes the checkpoints of a run; what they say of its data stays, for require_planned().
void drop_checkpoints(const PlannedRun& run);

// Error unless all runs of a seed consumed the same samples in the same order, step by step (a
// shorter run the first of them): compares the digests of RUN/consumed.txt.
void require_same_samples(const std::vector<PlannedRun>& runs);

// Error unless all evaluations scored the same targets.
void require_same_evaluation(const std::vector<RunResult>& runs);

// The report's list of what was equal.
std::vector<NamedValue> contract_text(const Comparison& comparison, const Plan& plan);

}  // namespace ceiling
