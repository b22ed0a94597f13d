#include "train/recall_probe.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <memory>

#include "base/text.h"
#include "train/evaluate.h"

namespace ceiling {

namespace {

// Samples [first, first + n) in one batch.
Batch read_batch(const ProbeSamples& samples, int64_t context, int64_t first, int64_t n) {
  const auto n_elements = static_cast<size_t>(n * context), row = static_cast<size_t>(context);
  const auto memory = std::make_shared<std::vector<int32_t>>(3 * n_elements);
  int32_t *tokens = memory->data(), *targets = tokens + n_elements;
  Batch batch;
  batch.first_position = first, batch.n_samples = n, batch.context = context;
  batch.memory = memory;
  batch.tokens = tokens, batch.targets = targets, batch.documents = targets + n_elements;  // all 0
  for (int64_t i = 0; i < n; ++i)
    samples.read(first + i, {tokens + i * context, row}, {targets + i * context, row});
  batch.n_targets =
      static_cast<int64_t>(n_elements) - std::count(targets, targets + n_elements, -1);
  return batch;
}

}  // namespace

std::vector<RecallScore> probe_recall(LanguageModel& model, const std::vector<uint32_t>& ids,
                                      const RecallProbeOptions& options, at::Device device,
                                      Communicator* several) {
  SelfCommunicator alone;
  Communicator& world = several ? *several : alone;
  std::vector<RecallScore> scores;
  for (const std::string& probe : options.probes)
    for (const int64_t context : options.contexts) {
      const ProbeSamples samples(probe, context, ids);
      if (options.on_progress) options.on_progress(probe, context);
      const int64_t step = std::max<int64_t>(options.tokens_at_once / context, 1) * world.size();
      int64_t first = 0;
      const auto next = [&]() -> std::optional<Batch> {
        if (first >= options.n_samples) return std::nullopt;
        const int64_t n = std::min(step, options.n_samples - first);
        const int64_t begin = first + n * world.rank() / world.size();
        const int64_t end = first + n * (world.rank() + 1) / world.size();
        first += n;
        return read_batch(samples, context, begin, end - begin);
      };
      const EvaluationResult result = evaluate(
          model,
          {.next = next, .n_samples = options.n_samples, .context = context, .accuracy = true}, {},
          device, world);
      scores.push_back({.probe = probe,
                        .context = context,
                        .accuracy = result.accuracy.value_or(0),
                        .nats = result.nats,
                        .n_targets = result.n_targets,
                        .chance = samples.chance()});
    }
  return scores;
}

void require_probes(const std::vector<std::string>& probes, const std::vector<int64_t>& contexts,
                    const std::vector<uint32_t>& ids) {
  for (const std::string& probe : probes)
    for (const int64_t context : contexts) ProbeSamples(probe, context, ids);
}

nlohmann::json to_json(const std::vector<RecallScore>& scores) {
  nlohmann::json list = nlohmann::json::array();
  for (const RecallScore& score : scores)
    list.push_back({{"probe", score.probe},
                    {"context", score.context},
                    {"accuracy", score.accuracy},
                    {"loss_nats", score.nats},
                    {"n_targets", score.n_targets},
                    {"chance", score.chance}});
  return list;
}

std::string readable(const std::vector<RecallScore>& scores) {
  std::string text = fmt::format("{:<10}  {:>8}  {:>9}  {:>8}  {:>11}  {:>8}\n", "recall",
                                 "context", "accuracy", "chance", "loss (nats)", "answers");
  for (const RecallScore& score : scores)
    text += fmt::format("{:<10}  {:>8}  {:>7.2f} %  {:>6.3f} %  {:>11.4f}  {:>8}\n", score.probe,
                        format_thousands(score.context), 100 * score.accuracy, 100 * score.chance,
                        score.nats, format_thousands(score.n_targets));
  return text;
}

}  // namespace ceiling
