// How well a language model recalls what stood earlier in its context, without any training for it.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/probe.h"
#include "modules/lm.h"
#include "parallel/communicator.h"

namespace ceiling {

struct RecallScore {
  std::string probe;
  int64_t context = 0;
  double accuracy = 0;  // share of answers that are the most probable token of the whole vocabulary
  double nats = 0;      // mean over answers
  int64_t n_targets = 0;
  double chance = 0;  // accuracy of a guess among the tokens that occur
};

struct RecallProbeOptions {
  std::vector<std::string> probes = recall_probes();
  std::vector<int64_t> contexts = {};  // each probe at each of them
  int64_t n_samples = 64;              // of each probe and context, the same for every model
  int64_t tokens_at_once =
      8192;  // on one rank, but at least one sample; does not change the result
  std::function<void(const std::string& probe, int64_t context)> on_progress = {};
};

// `ids`: the model's ordinary tokens (Tokenizer::text_ids). In the order of probes, then contexts.
// Draws nothing from any generator but its own. With `world`, all ranks must call it: each takes a
// part of the samples, all get the scores. Error as ProbeSamples; Interrupted as evaluate().
std::vector<RecallScore> probe_recall(LanguageModel& model, const std::vector<uint32_t>& ids,
                                      const RecallProbeOptions& options, at::Device device,
                                      Communicator* world = nullptr);

// Error as ProbeSamples, before anything is computed.
void require_probes(const std::vector<std::string>& probes, const std::vector<int64_t>& contexts,
                    const std::vector<uint32_t>& ids);

nlohmann::json to_json(const std::vector<RecallScore>& scores);  // a list, as `eval --json` has it
std::string readable(const std::vector<RecallScore>& scores);    // a table for people

}  // namespace ceiling
