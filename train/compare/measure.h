// What is measured of a contender without training it: speed, memory, decoding. Each measurement is
// a command of `ceiling` run alone, and a file in DIR/measured that is read when the comparison
// runs again.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "train/compare/jobs.h"
#include "train/compare/match.h"
#include "train/compare/results.h"
#include "train/compare/spec.h"

namespace ceiling {

class Measurements {
 public:
  Measurements(const Comparison& comparison, int64_t vocab_size)
      : comparison_(comparison), vocab_size_(vocab_size) {}

  // What has no file yet, or one of other options. The jobs read what write_config() writes.
  std::vector<Job> missing(const MatchedContender& contender) const;
  void write_config(const MatchedContender& contender) const;  // DIR/runs/<contender>.yaml
  std::vector<TrainingSpeed> training(const MatchedContender& contender) const;
  std::vector<DecodingSpeed> decoding(const MatchedContender& contender) const;

 private:
  struct Training {
    int64_t context, global_batch;
    std::string micro_batch, file;
  };
  std::vector<Training> lengths(const MatchedContender& contender) const;
  std::string decode_file(const MatchedContender& contender) const;
  std::string config_file(const MatchedContender& contender) const;
  const Comparison& comparison_;
  int64_t vocab_size_;
};

}  // namespace ceiling
