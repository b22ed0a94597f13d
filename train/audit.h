// Proof from a run's own records that each sample was consumed as often as it should be.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace ceiling {

struct AuditReport {
  int64_t n_steps = 0, n_samples = 0;
  struct Part {
    std::string name;  // the dataset's path, or "task mqar"
    int64_t n_consumed = 0, per_epoch = 0;
  };
  std::vector<Part> parts;
  // Ranks that took the steps, one entry per change: {first step, ranks}.
  std::vector<std::pair<int64_t, int64_t>> world_sizes;
  std::string data_hash;
};

// Reads RUN/consumed.txt up to the newest valid checkpoint, and every sample again from the
// dataset or task. Error at the first thing that is not so:
//   the steps are 1, 2, 3, ... and their positions join without gap and overlap;
//   each step's digest is that of the samples which belong to its positions, tokens included;
//   no sample occurs twice before all of its epoch have occurred;
//   the chain over all digests is the data hash of the checkpoint.
AuditReport audit_run(const std::string& run_dir,
                      const std::function<void(int64_t step, int64_t n_steps)>& progress = {});

std::string audit_text(const AuditReport& report);

}  // namespace ceiling
