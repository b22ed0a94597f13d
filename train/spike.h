// Loss spikes: a step whose loss or gradient norm lies far above its recent values is skipped, as
// llm.c and OLMo do.
#pragma once
#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>

namespace ceiling {

class SpikeDetector {
 public:
  // `window` recent values; a z-score above `threshold` is a spike. Judges only once the window is
  // full.
  SpikeDetector(int64_t window, double threshold) : window_(window), threshold_(threshold) {}
  // The z-score if this step is a spike. Values of ordinary steps join the window; those of spikes
  // do not.
  std::optional<double> observe(double loss, double grad_norm);
  nlohmann::json save() const;
  void load(const nlohmann::json& state);

 private:
  double z_score(const std::deque<double>& recent, double value) const;
  int64_t window_;
  double threshold_;
  std::deque<double> losses_, norms_;
};

}  // namespace ceiling
