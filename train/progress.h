// How far a run is: what a resume needs beside weights, moments and the data itself.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace ceiling {

struct Progress {
  int64_t step = 0;            // optimizer steps taken (skipped ones included)
  int64_t optimizer_step = 0;  // Adam's t: skipped steps do not count
  int64_t tokens = 0, n_targets = 0;
  std::string data_chain = std::string(64, '0');  // running hash over all samples consumed
  double train_s = 0;                             // time in training steps, over all sessions
  double valid_nats = 0;                          // of the last evaluation; 0: none yet
  int64_t valid_step = 0;
  double best_nats = 0;
};

// Keys of a checkpoint's state.json.
nlohmann::json to_json(const Progress& progress);
Progress progress_from(const nlohmann::json& state);

}  // namespace ceiling
