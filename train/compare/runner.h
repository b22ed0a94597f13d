// `ceiling compare`: carries a comparison out, whatever part of it is still to be done.
#pragma once
#include <string>

#include "train/compare/spec.h"

namespace ceiling {

// What would be done: the contract, the matched contenders, the runs.
std::string describe_comparison(const Comparison& comparison);

// Measures, trains, evaluates and writes results.json, report.md and report.html into compare.dir.
// What an earlier call has finished is not repeated. `command` reproduces it. Error at the first
// run that does not keep the contract, before anything is trained.
void run_comparison(const Comparison& comparison, const std::string& command);

// Writes results and report of what is finished so far; what is not is named at the top.
void report_comparison(const Comparison& comparison, const std::string& command);

}  // namespace ceiling
