#include "train/schedule.h"

#include <algorithm>
#include <cmath>

namespace ceiling {

double Schedule::at(int64_t step) const {
  if (step <= warmup_steps)
    return peak * static_cast<double>(step) / static_cast<double>(warmup_steps);
  const auto share = [](int64_t done, int64_t all) {
    return all <= 0 ? 0.0
                    : std::clamp(static_cast<double>(done) / static_cast<double>(all), 0.0, 1.0);
  };
  const double progress = share(step - 1 - warmup_steps, steps - warmup_steps);
  if (shape == "cosine") return low + (peak - low) * 0.5 * (1 + std::cos(M_PI * progress));
  if (shape == "linear") return peak + (low - peak) * progress;
  if (shape == "wsd") return peak + (low - peak) * share(step - (steps - decay_steps), decay_steps);
  return peak;
}

}  // namespace ceiling
