#include "train/spike.h"

#include <algorithm>
#include <cmath>

namespace ceiling {

double SpikeDetector::z_score(const std::deque<double>& recent, double value) const {
  const auto n = static_cast<double>(recent.size());
  double mean = 0, square = 0;
  for (const double x : recent) mean += x / n;
  for (const double x : recent) square += (x - mean) * (x - mean) / n;
  // A floor of 0.1 % of the mean: a window of nearly equal values would make any change a spike.
  return (value - mean) / std::max(std::sqrt(square), 1e-3 * std::abs(mean) + 1e-12);
}

std::optional<double> SpikeDetector::observe(double loss, double grad_norm) {
  if (static_cast<int64_t>(losses_.size()) >= window_) {
    const double z = std::max(z_score(losses_, loss), z_score(norms_, grad_norm));
    if (z > threshold_) return z;
  }
  const auto add = [&](std::deque<double>& recent, double value) {
    recent.push_back(value);
    if (static_cast<int64_t>(recent.size()) > window_) recent.pop_front();
  };
  add(losses_, loss);
  add(norms_, grad_norm);
  return {};
}

nlohmann::json SpikeDetector::save() const { return {{"losses", losses_}, {"norms", norms_}}; }

void SpikeDetector::load(const nlohmann::json& state) {
  losses_ = state.at("losses").get<std::deque<double>>();
  norms_ = state.at("norms").get<std::deque<double>>();
}

}  // namespace ceiling
