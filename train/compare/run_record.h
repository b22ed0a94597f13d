// What a run of a comparison has left in its folder.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/compare/results.h"

namespace ceiling {

struct RunRecord {
  std::vector<CurvePoint> train, valid;
  // Of the newest line, of the newest evaluation, of the newest checkpoint.
  int64_t last_step = 0, valid_step = 0, saved_step = 0;
  std::string data_hash;             // running hash at the last step
  std::vector<double> tokens_per_s;  // as the run logged it, without its first, which has the start
};

// RUN/metrics.jsonl; empty where there is none. A line that a kill has cut is passed over.
RunRecord read_record(const std::string& run_dir);

// Whether the run took all its steps, evaluated the last and saved it.
bool is_finished(const std::string& run_dir, int64_t steps);
// Whether that last checkpoint is still there.
bool has_checkpoint(const std::string& run_dir, int64_t steps);

// "step 40/100, loss 4.213", for a progress line.
std::string progress_text(const std::string& run_dir, int64_t steps);

}  // namespace ceiling
