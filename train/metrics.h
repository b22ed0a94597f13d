// What a run reports: one readable line per log step, the same numbers in RUN/metrics.jsonl, and
// TensorBoard events.
#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "train/tensorboard.h"

namespace ceiling {

struct StepMetrics {
  int64_t step = 0, steps = 0, tokens = 0, n_targets = 0;
  double loss_nats = 0, grad_norm = 0, lr = 0;
  double tokens_per_s = 0;  // since the last log line; evaluation and saving do not count
  double mfu = 0;           // share of the peak, 0..1; 0 unknown
  double memory_bytes = 0, data_wait_ms = 0, eta_s = 0;
  std::string data_hash;  // running hash over all samples so far
};

class Metrics {
 public:
  // Drops lines of steps after `resume_step` that a killed session left in metrics.jsonl.
  Metrics(const std::string& run_dir, int64_t resume_step, bool tensorboard);
  // The newest step whose evaluation stands in metrics.jsonl; 0: none.
  int64_t evaluated_step() const { return evaluated_step_; }
  void step(const StepMetrics& metrics);
  // Any other event: evaluation, samples, checkpoint, spike, resume. `event` names it; logged by
  // the caller.
  void event(const std::string& event, int64_t step, nlohmann::json fields);

 private:
  void write(const nlohmann::json& line);
  std::unique_ptr<File> file_;
  int64_t evaluated_step_ = 0;
  std::unique_ptr<TensorboardWriter> tensorboard_;
};

// "step 1200/20000 | loss 3.2814 | ..."
std::string readable(const StepMetrics& metrics);

}  // namespace ceiling
