// Timing of whole models on random tokens: no dataset is needed. `ceiling bench model|decode`.
#pragma once
#include "train/run_config.h"

namespace ceiling {

// Steps are equal work: where the median takes so many times what the fastest takes, something else
// ran beside them.
constexpr double kUneven = 1.5;

struct TrainingTimes {
  int64_t n_parameters = 0, tokens_per_step = 0;
  double first_step_s = 0;  // with all that libraries do the first time
  double step_ms = 0;       // median
  double fastest_step_ms = 0;
  double mfu = 0;         // 0: peak unknown
  double peak_bytes = 0;  // GPU: most allocated at a time, from the start; CPU: resident set
};

// Optimizer steps as the config says: global batch, micro-batch, context, precision, recompute.
TrainingTimes time_training(RunConfig config, int64_t vocab_size, int64_t steps);

struct DecodeTimes {
  int64_t batch = 0, length = 0;  // tokens that each row holds before
  double token_ms = 0;            // median, of one token for all rows
  double state_bytes = 0;         // one row's
  double peak_bytes = 0;
};

// One token at a time after each of the lengths, which must ascend.
std::vector<DecodeTimes> time_decoding(RunConfig config, int64_t vocab_size, int64_t batch,
                                       const std::vector<int64_t>& lengths, int64_t tokens);

}  // namespace ceiling
