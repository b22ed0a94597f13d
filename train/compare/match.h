// Contenders of equal size.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "train/compare/spec.h"

namespace ceiling {

struct MatchedContender {
  std::string name, architecture;
  ConfigNode model;   // with the solved key
  std::string key;    // that was solved for; empty: as written
  int64_t value = 0;  // its value
  int64_t parameters = 0, non_embedding_parameters = 0;
  double match_error = 0;  // relative to the wanted number without embedding and head
  double training_flops_per_token = 0;
};

// Solves each contender's `match` key so that its parameters without embedding and head are those
// of compare.match_to. A width is a multiple of 128, 64, 32, 16 or 8 if one is near enough, as
// matrix units like. Error if one cannot be brought within compare.tolerance,
// with how near it comes.
std::vector<MatchedContender> match_contenders(const Comparison& comparison, int64_t vocab_size);

}  // namespace ceiling
