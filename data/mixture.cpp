#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

namespace {

// Whole numbers of samples per `period`, if they stand for the shares exactly (as far as a double
// tells).
std::optional<std::vector<int64_t>> exact_counts(const std::vector<double>& shares,
                                                 int64_t period) {
  std::vector<int64_t> counts;
  for (const double share : shares) {
    const double count = share * static_cast<double>(period);
    if (std::abs(count - std::round(count)) > 1e-12 * static_cast<double>(period))
      return std::nullopt;
    counts.push_back(std::llround(count));
  }
  return counts;
}

// Largest remainders: counts that add up to `period`, each within 1 of its share.
std::vector<int64_t> rounded_counts(const std::vector<double>& shares, int64_t period) {
  std::vector<int64_t> counts;
  std::vector<std::pair<double, size_t>> remainders;
  for (size_t i = 0; i < shares.size(); ++i) {
    const double count = shares[i] * static_cast<double>(period);
    counts.push_back(static_cast<int64_t>(count));
    remainders.emplace_back(std::floor(count) - count, i);  // ascending: largest remainder first
  }
  std::sort(remainders.begin(), remainders.end());
  const int64_t missing = period - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (size_t i = 0; i < static_cast<size_t>(missing); ++i) ++counts[remainders[i].second];
  return counts;
}

}  // namespace

Mixture::Mixture(const std::vector<double>& weights) {
  double sum = 0;
  for (const double weight : weights) {
    if (!(weight > 0) || !std::isfinite(weight))
      throw Error("mixture: weight {} is out of range, must be more than 0", format_double(weight));
    sum += weight;
  }
  std::vector<double> shares;
  for (const double weight : weights) shares.push_back(weight / sum);
  for (int64_t period = 1; counts_.empty() && period <= kMaxPeriod; ++period)
    if (const auto exact = exact_counts(shares, period)) counts_ = *exact;
  if (counts_.empty()) counts_ = rounded_counts(shares, kMaxPeriod);
  for (size_t i = 0; i < weights.size(); ++i)
    if (counts_[i] == 0)
      throw Error(
          "mixture: weight {} is less than 1/{} of all weights together, too little to be sampled",
          format_double(weights[i]), kMaxPeriod);

  // The j-th sample of a part with count m in a period M has to come in the steps [floor((j-1)
  // M/m), ceil(j M/m)): then every count stays within 1 of its share. Such a schedule exists, and
  // taking the earliest end first finds it (P-fair scheduling: Baruah et al., 1996).
  const int64_t period = std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
  std::vector<int64_t> used(counts_.size(), 0);
  schedule_.reserve(static_cast<size_t>(period));
  for (int64_t step = 0; step < period; ++step) {
    size_t best = counts_.size();
    int64_t best_end = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      const int64_t m = counts_[i], begin = used[i] * period / m,
                    end = ((used[i] + 1) * period + m - 1) / m;
      if (begin > step || (best < counts_.size() && end >= best_end)) continue;
      best = i, best_end = end;
    }
    schedule_.push_back({static_cast<int64_t>(best), used[best]++});
  }
}

Mixture::Place Mixture::at(int64_t position) const {
  const Place& place = schedule_[static_cast<size_t>(position % period())];
  return {place.part, position / period() * count(place.part) + place.index};
}

}  // namespace ceiling
