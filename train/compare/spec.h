// The file of `ceiling compare`: a run's configuration that all contenders share, the contenders,
// and how they are compared. docs/compare.md is its manual.
//
//   compare:    {dir: runs/compare/kjv, lr: [1e-3, 2e-3], seeds: 2}
//   contenders:
//     llama:    {model: {architecture: llama, n_heads: 2}}
//     retnet:   {model: {architecture: retnet, n_heads: 2}}
//   model:      {d_model: 128, n_layers: 4}          # keys that all contenders have
//   data:       {source: bible-kjv, ...}             # these and the rest: as for `ceiling train`
//   train:      {steps: 100, ...}
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "train/run_config.h"

namespace ceiling {

struct CompareSection {
  std::string title, dir;
  std::vector<double> lr;
  int64_t seeds = 2;
  std::string match = "d_ff", match_to;
  double tolerance = 0.01;
  std::vector<std::string> budgets = {"tokens", "flops", "time"};
  int64_t jobs = 1;
  bool keep_checkpoints = true;
  std::vector<int64_t> speed_contexts, decode_lengths;
  int64_t decode_batch = 1;
  bool recall = true;
  std::vector<int64_t> recall_contexts;
  int64_t recall_samples = 64;
  void fields(Fields& f);
};

// One of what is compared.
struct ContenderSpec {
  std::string name;
  ConfigNode model;   // its `model` section, shared keys included
  std::string match;  // the key that is solved for, or "none"
};

struct Comparison {
  std::string path;  // of the file
  CompareSection compare;
  std::vector<ContenderSpec> contenders;
  ConfigNode recipe;  // a run's configuration without run.dir and model

  // The configuration of one run. Error as read_run_config.
  RunConfig run(const ConfigNode& model, const std::string& dir, double lr, int64_t seed,
                int64_t steps) const;
  // The recipe with the model of a contender: what does not depend on rate, seed and budget.
  RunConfig recipe_with(const ConfigNode& model) const;
};

// Reads and checks. Each override is "section.key=value".
Comparison load_comparison(const std::string& path, const std::vector<std::string>& overrides = {});

}  // namespace ceiling
