// The training loop: step, evaluate, save, stop, resume.
#pragma once
#include "base/error.h"
#include "train/run_config.h"

namespace ceiling {

// Loss or gradients are not finite: training again would end in the same way.
class Diverged : public Error {
 public:
  using Error::Error;
};
inline constexpr int kDiverged = 4;  // exit code

// Exit codes of a training run. A signal gives 128 + its number after a final save.
inline constexpr int kFinished = 0, kTimeLimitReached = 3;
inline constexpr int kStoppedByAnotherRank = 1;  // which has told the user why

// Trains (or continues) the run that `config` describes, in config.run.dir: as one of several ranks
// if the environment says so, or by starting config.parallel.ranks of them. Error on anything that
// cannot be honoured.
int train(RunConfig config);

}  // namespace ceiling
