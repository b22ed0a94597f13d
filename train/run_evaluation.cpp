#include "train/run_evaluation.h"

#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "train/recall_probe.h"
#include "train/sampler.h"
#include "train/setup.h"

namespace ceiling {

std::optional<EvaluationResult> RunEvaluation::run(int64_t step) const {
  std::optional<EvaluationResult> result;
  const LoaderOptions data =
      loader_options(config, Split::kValid, device, world.rank(), world.size());
  if (Loader::has_split(data, Split::kValid)) result = loss(data, step);
  if (!config.eval.recall.empty()) recall(step);
  if (!config.eval.prompts.empty() && world.first()) samples(step);
  return result;
}

EvaluationResult RunEvaluation::loss(const LoaderOptions& data, int64_t step) const {
  const EvaluationResult result =
      evaluate(model, data,
               {.micro_batch = config.eval.batch.value_or(micro_batch),
                .max_samples = config.eval.samples.value_or(0),
                .on_progress =
                    [&](double share, const EvaluationResult&) {
                      status.show(fmt::format("evaluating {:.0f} %", 100 * share));
                    }},
               device, &world.communicator());
  if (world.first())
    spdlog::info("valid at step {} | loss {:.4f} | ppl {:.2f}{}{} | {} targets | {}", step,
                 result.nats, result.perplexity(),
                 result.bits_per_byte > 0
                     ? fmt::format(" | {:.3f} bits per byte", result.bits_per_byte)
                     : "",
                 result.accuracy ? fmt::format(" | accuracy {:.2f} %", 100 * *result.accuracy) : "",
                 format_thousands(result.n_targets), format_duration(result.seconds));
  if (!metrics) return result;
  nlohmann::json values = {{"loss_nats", result.nats},
                           {"perplexity", result.perplexity()},
                           {"bits_per_byte", result.bits_per_byte},
                           {"n_targets", result.n_targets},
                           {"seconds", result.seconds}};
  if (result.accuracy) values["accuracy"] = *result.accuracy;
  metrics->event("valid", step, values);
  return result;
}

void RunEvaluation::recall(int64_t step) const {
  const int64_t context = config.data.context;
  const auto scores = probe_recall(
      model, tokenizer.text_ids(),
      {.probes = config.eval.recall,
       .contexts = {context},
       .n_samples = config.eval.recall_samples,
       .tokens_at_once = config.eval.batch.value_or(micro_batch) * context,
       .on_progress = [&](const std::string& probe, int64_t) { status.show("probing " + probe); }},
      device, &world.communicator());
  if (!metrics) return;
  std::string line = fmt::format("recall at step {}", step);
  nlohmann::json values = {{"context", context}, {"chance", scores[0].chance}};
  for (const RecallScore& score : scores) {
    line += fmt::format(" | {} {:.2f} %", score.probe, 100 * score.accuracy);
    values[score.probe] = {
        {"accuracy", score.accuracy}, {"loss_nats", score.nats}, {"n_targets", score.n_targets}};
  }
  spdlog::info("{} | chance {:.3f} %", line, 100 * scores[0].chance);
  metrics->event("recall", step, values);
}

void RunEvaluation::samples(int64_t step) const {
  std::vector<std::vector<uint32_t>> prompts;
  for (const std::string& prompt : config.eval.prompts)
    prompts.push_back(encode_prompt(tokenizer, prompt, config.data.bos));
  const auto texts = generate(model, prompts, tokenizer.info().eos,
                              {.temperature = config.eval.temperature,
                               .top_k = config.eval.top_k,
                               .top_p = config.eval.top_p,
                               .seed = static_cast<uint64_t>(config.eval.seed),
                               .max_tokens = config.eval.sample_tokens},
                              device);
  for (size_t i = 0; i < texts.size(); ++i) {
    int64_t replaced = 0;  // a sample may end within a character
    const std::string text = repair_utf8(tokenizer.decode(texts[i].tokens), &replaced);
    spdlog::info("sample | {}{}", config.eval.prompts[i], text);
    metrics->event("sample", step, {{"prompt", config.eval.prompts[i]}, {"text", text}});
  }
}

}  // namespace ceiling
