// Which part of a mixture the sample at position p comes from. After any number n of samples every
// part has had n times its share, to within 1, and both the part and the index within it are pure
// functions of p.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ceiling {

class Mixture {
 public:
  // Shares become fractions with a common denominator, the smallest up to kMaxPeriod that
  // represents them exactly (0.7 and 0.3: 7/10 and 3/10), else rounded to kMaxPeriod. Error on a
  // weight that is not positive, or rounds to nothing.
  static constexpr int64_t kMaxPeriod = 1 << 16;
  explicit Mixture(const std::vector<double>& weights);

  struct Place {
    int64_t part;
    int64_t index;  // how many samples of this part came before
  };
  Place at(int64_t position) const;
  int64_t period() const { return static_cast<int64_t>(schedule_.size()); }
  int64_t count(int64_t part) const { return counts_[static_cast<size_t>(part)]; }  // per period

 private:
  std::vector<int64_t> counts_;
  std::vector<Place> schedule_;  // of one period
};

}  // namespace ceiling
