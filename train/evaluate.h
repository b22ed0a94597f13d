// How well a model predicts samples: over all, by position in the context, and sample by sample.
// Every target counts once, the tail of a dataset too; micro-batch and ranks do not change the
// result.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "modules/lm.h"
#include "parallel/communicator.h"

namespace ceiling {

// Of one sample: sums over its targets.
struct SampleScore {
  double nats = 0;
  int64_t n_targets = 0;
  int64_t n_right = 0;  // targets that are the most probable token; 0 where that is not asked
};

// Of the targets whose input token stands at [first, last] of its sample, counted from 0. In a row
// of packed documents that is the position in the row, not in the document.
struct PositionScore {
  int64_t first = 0, last = 0, n_targets = 0;
  double nats = 0;                                // mean over these targets
  std::optional<double> accuracy, bits_per_byte;  // as in EvaluationResult
};

struct EvaluationResult {
  double nats = 0;           // mean over targets
  double bits_per_byte = 0;  // 0 where the dataset does not know its text bytes
  // Of a synthetic task: share of targets that are the most probable token.
  std::optional<double> accuracy;
  int64_t n_targets = 0, n_samples = 0;
  double seconds = 0;
  // Positions 0, 1, 2-3, 4-7, ... up to the context, without those where no target stands.
  std::vector<PositionScore> by_position;
  // In the order of the data, on every rank: two models that were evaluated on the same samples can
  // be compared pair by pair.
  std::vector<SampleScore> samples;
  // Of datasets and tasks: two evaluations with equal fingerprints and equal n_samples saw the same
  // samples (Loader::fingerprint: data, tokenizer, split, context, cross_document).
  std::string data_fingerprint, tokenizer_sha256;
  double perplexity() const;
};

// What `ceiling eval --json` prints of it.
nlohmann::json to_json(const EvaluationResult& result);

// Called after each batch with the share done and the means so far; long evaluations show progress
// with it.
using EvaluationProgress = std::function<void(double share, const EvaluationResult& so_far)>;

struct EvaluationOptions {
  int64_t micro_batch = 8;  // samples at once on one rank
  int64_t max_samples = 0;  // the first samples only; 0: all
  EvaluationProgress on_progress = {};
};

// `loader` describes the data (parts, split, context, cross_document); order and batch are set
// here.
// With `world`, all ranks must call it: each takes its part (loader.rank), all get the sum, and a
// request to stop that any of them has received ends it on all of them.
EvaluationResult evaluate(LanguageModel& model, LoaderOptions loader,
                          const EvaluationOptions& options, at::Device device,
                          Communicator* world = nullptr);

// The same for batches from anywhere: all positions from 0 to n_samples, each on one rank, in
// equally many batches on every rank. What only a dataset knows is left empty.
struct BatchSource {
  std::function<std::optional<Batch>()> next = {};  // this rank's; empty at the end
  int64_t n_samples = 0, context = 0;
  bool accuracy = false;  // costs the logits of all targets
};
EvaluationResult evaluate(LanguageModel& model, const BatchSource& batches,
                          const EvaluationProgress& on_progress, at::Device device,
                          Communicator& world);

}  // namespace ceiling
