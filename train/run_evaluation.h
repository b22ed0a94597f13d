// What a run looks at between its steps: validation loss, probes of recall, continued prompts.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "data/tokenizer.h"
#include "modules/lm.h"
#include "train/evaluate.h"
#include "train/logging.h"
#include "train/metrics.h"
#include "train/run_config.h"
#include "train/world.h"

namespace ceiling {

struct RunEvaluation {
  const RunConfig& config;
  LanguageModel& model;
  const Tokenizer& tokenizer;
  World& world;
  at::Device device;
  int64_t micro_batch;
  StatusLine& status;
  Metrics* metrics;  // of rank 0, else null

  // As config.eval says, with the weights as they are; logged and noted in the metrics as of
  // `step`. All ranks must call it. Nothing where the data has no validation split. Throws
  // Interrupted if any rank is asked to stop.
  std::optional<EvaluationResult> run(int64_t step) const;

 private:
  EvaluationResult loss(const LoaderOptions& data, int64_t step) const;
  void recall(int64_t step) const;
  void samples(int64_t step) const;
};

}  // namespace ceiling
