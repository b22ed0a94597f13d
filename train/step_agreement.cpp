#include "train/step_agreement.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace ceiling {

StepReports StepReports::exchange(Communicator& world, const StepReport& mine) {
  static_assert(std::is_trivially_copyable_v<StepReport>);  // all ranks run the same program
  const std::string bytes(reinterpret_cast<const char*>(&mine), sizeof mine);
  StepReports all;
  for (const std::string& text : world.gather(bytes, "the agreement on a step"))
    std::memcpy(&all.ranks_.emplace_back(), text.data(), sizeof(StepReport));
  return all;
}

StepReport StepReports::total() const {
  StepReport total = ranks_.front();
  for (size_t i = 1; i < ranks_.size(); ++i) {
    const StepReport& r = ranks_[i];
    total.loss_sum += r.loss_sum, total.squared_norm += r.squared_norm;
    total.n_targets += r.n_targets, total.n_samples += r.n_samples;
    total.digest += r.digest;
    total.first_position = std::min(total.first_position, r.first_position);
    if (total.signal == 0) total.signal = r.signal;
    total.out_of_time |= r.out_of_time;
  }
  return total;
}

int64_t StepReports::worst_rank() const {
  const auto badness = [](const StepReport& r) {
    if (!std::isfinite(r.loss_sum)) return std::numeric_limits<double>::infinity();
    return r.n_targets > 0 ? r.loss_sum / static_cast<double>(r.n_targets) : 0.0;
  };
  const auto worst = std::max_element(
      ranks_.begin(), ranks_.end(),
      [&](const StepReport& a, const StepReport& b) { return badness(a) < badness(b); });
  return worst - ranks_.begin();
}

std::string StepReports::worst_samples() const {
  const StepReport& r = ranks_[static_cast<size_t>(worst_rank())];
  return fmt::format("samples {} to {} (rank {})", r.first_position,
                     r.first_position + r.n_samples - 1, worst_rank());
}

}  // namespace ceiling
