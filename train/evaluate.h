// Loss of a model on a dataset. Every target counts once, the tail too; micro-batch and ranks do
// not change the result.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>

#include "data/loader.h"
#include "modules/lm.h"
#include "parallel/communicator.h"

namespace ceiling {

struct EvaluationResult {
  double nats = 0;           // mean over targets
  double bits_per_byte = 0;  // 0 where the dataset does not know its text bytes
  // Of a synthetic task: share of targets that are the most probable token.
  std::optional<double> accuracy;
  int64_t n_targets = 0, n_samples = 0;
  double seconds = 0;
  double perplexity() const;
};

struct EvaluationOptions {
  int64_t micro_batch = 8;  // samples at once on one rank
  int64_t max_samples = 0;  // the first samples only; 0: all
  // Called after each batch with the share done; long evaluations show progress and poll for
  // signals with it.
  std::function<void(double share, const EvaluationResult& so_far)> on_progress;
};

// `loader` describes the data (parts, split, context, cross_document); order and batch are set
// here.
// With `world`, all ranks must call it: each takes its part (loader.rank), all get the sum, and a
// request to stop that any of them has received ends it on all of them.
EvaluationResult evaluate(LanguageModel& model, LoaderOptions loader,
                          const EvaluationOptions& options, at::Device device,
                          Communicator* world = nullptr);

}  // namespace ceiling
