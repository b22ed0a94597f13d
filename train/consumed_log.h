// RUN/consumed.txt: what each step has consumed, one line per step, so that `ceiling data audit`
// can prove that a run with any number of interruptions saw each sample exactly as often as one
// without:
//   step first_position n_samples n_targets digest world_size
// `digest` is the sum over samples of a hash of position and tokens (data/loader.h), hexadecimal;
// positions and samples are those of all ranks together.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"
#include "train/step_agreement.h"

namespace ceiling {

struct ConsumedStep {
  int64_t step = 0, first_position = 0, n_samples = 0, n_targets = 0;
  uint64_t digest = 0;
  int64_t world_size = 1;
};

class ConsumedLog {
 public:
  // Drops steps after `resume_step`, which a killed session took and which are taken again.
  ConsumedLog(const std::string& run_dir, int64_t resume_step);
  // Error if the ranks' samples do not join into one run of positions.
  void step(int64_t step, const std::vector<StepReport>& ranks);
  void flush();  // before a checkpoint that counts these steps
  static std::vector<ConsumedStep> read(const std::string& run_dir);

 private:
  std::unique_ptr<File> file_;
};

}  // namespace ceiling
