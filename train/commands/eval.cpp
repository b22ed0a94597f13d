// ceiling eval RUN [--data DATASET] [--recall]
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <algorithm>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/safetensors.h"
#include "modules/ops/device.h"
#include "train/command.h"
#include "train/evaluate.h"
#include "train/load_model.h"
#include "train/logging.h"
#include "train/recall_probe.h"
#include "train/setup.h"

namespace ceiling {
namespace {

struct Options {
  std::string run, data, split = "valid", device = "auto", precision = "fp32",
                         cross_document = "mask";
  std::string logits, tokens;
  int64_t context = 0, batch = 8, samples = 0;
  std::vector<int64_t> recall_contexts;
  int64_t recall_samples = 64;
  bool json = false, by_position = false, recall = false;
};

// "1,2,3;4,5" -> rows of ids.
std::vector<std::vector<uint32_t>> parse_token_rows(const std::string& text, int64_t vocab_size) {
  std::vector<std::vector<uint32_t>> rows;
  for (const std::string& row : split(text, ';')) {
    rows.emplace_back();
    for (const std::string& word : split(row, ',')) {
      const auto id = parse_int(word);
      if (!id || *id < 0 || *id >= vocab_size)
        throw Error("--tokens: '{}' is no token id below {}; write rows of ids as in 1,2,3;4,5",
                    word, vocab_size);
      rows.back().push_back(static_cast<uint32_t>(*id));
    }
  }
  return rows;
}

// Logits of every position of given token rows, for comparison with other programs.
int write_logits(const Options& options, const LoadedModel& loaded, at::Device device) {
  at::NoGradGuard no_grad;
  std::vector<NamedTensor> out;
  const auto rows = parse_token_rows(options.tokens, loaded.model->options().vocab_size);
  for (size_t i = 0; i < rows.size(); ++i) {
    at::Tensor tokens = at::zeros({1, static_cast<int64_t>(rows[i].size())}, at::kInt);
    for (size_t t = 0; t < rows[i].size(); ++t)
      tokens.accessor<int, 2>()[0][static_cast<int64_t>(t)] = static_cast<int>(rows[i][t]);
    const at::Tensor hidden = loaded.model->hidden(tokens.to(device), Segments{}, nullptr);
    out.push_back({"logits." + std::to_string(i), loaded.model->logits(hidden).squeeze(0).cpu()});
  }
  write_safetensors(options.logits, out);
  return 0;
}

int64_t context_of(const Options& options, const LoadedModel& loaded) {
  return options.context > 0 ? options.context : loaded.context();
}

// What to evaluate on: --data, or the test set of the task that the model was trained on.
LoaderOptions samples(const Options& options, const LoadedModel& loaded) {
  LoaderOptions data;
  data.split = options.split == "train" ? Split::kTrain : Split::kValid;
  data.context = context_of(options, loaded);
  const std::string task = loaded.task();
  if (task.empty()) {
    if (options.data.empty())
      throw Error(
          "--data: name a dataset folder made by `ceiling prepare`, or give --recall to probe the "
          "model without one");
    data.parts = {{options.data, 1.0}};
    data.cross_document = options.cross_document == "allow";
    require_tokenizer(loaded.state, DatasetReader(options.data).tokenizer(), options.data);
    return data;
  }
  if (!options.data.empty())
    throw Error(
        "--data: {} was trained on the synthetic task {}, whose tokens stand for no text; leave "
        "--data out to evaluate on the task's own test set",
        loaded.path, task);
  const RunConfig trained = read_run_config(load_config_file(loaded.path + "/config.yaml"));
  data.recall = trained.recall();
  data.seed = static_cast<uint64_t>(trained.run.seed);  // decides the training samples alone
  return data;
}

std::string position_table(const EvaluationResult& result) {
  std::string text = fmt::format("{:>15}  {:>12}  {:>10}{}\n", "position", "targets", "loss (nats)",
                                 result.accuracy            ? "  accuracy"
                                 : result.bits_per_byte > 0 ? "  bits per byte"
                                                            : "");
  for (const PositionScore& at : result.by_position) {
    const std::string where =
        at.first == at.last ? std::to_string(at.first) : fmt::format("{}-{}", at.first, at.last);
    text +=
        fmt::format("{:>15}  {:>12}  {:>11.4f}", where, format_thousands(at.n_targets), at.nats);
    if (at.accuracy) text += fmt::format("  {:>6.2f} %", 100 * *at.accuracy);
    if (at.bits_per_byte) text += fmt::format("  {:>13.4f}", *at.bits_per_byte);
    text += "\n";
  }
  return text;
}

std::vector<RecallScore> recall(const Options& options, const LoadedModel& loaded,
                                at::Device device) {
  if (const std::string task = loaded.task(); !task.empty())
    throw Error(
        "--recall: {} was trained on the synthetic task {} and knows no text; probes are for "
        "language models. Leave --recall out to evaluate on the task's own test set",
        loaded.path, task);
  StatusLine status;
  std::vector<int64_t> contexts = options.recall_contexts;
  if (contexts.empty()) contexts = {context_of(options, loaded)};
  std::sort(contexts.begin(), contexts.end());
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  const std::vector<uint32_t> ids = loaded.text_ids();
  require_probes(recall_probes(), contexts, ids);
  return probe_recall(*loaded.model, ids,
                      {.contexts = contexts,
                       .n_samples = options.recall_samples,
                       .tokens_at_once = options.batch * context_of(options, loaded),
                       .on_progress =
                           [&](const std::string& probe, int64_t context) {
                             status.show(fmt::format("probing {} at {} tokens", probe, context));
                           }},
                      device);
}

EvaluationResult loss(const Options& options, const LoaderOptions& data, const LoadedModel& loaded,
                      at::Device device) {
  StatusLine status;
  return evaluate(*loaded.model, data,
                  {.micro_batch = options.batch,
                   .max_samples = options.samples,
                   .on_progress =
                       [&](double share, const EvaluationResult& so_far) {
                         status.show(fmt::format("evaluating {:.0f} % | loss {:.4f}", 100 * share,
                                                 so_far.nats));
                       }},
                  device);
}

// What is printed of the loss, as rows and as a table.
std::vector<DescriptionRow> loss_rows(const EvaluationResult& result) {
  std::vector<DescriptionRow> rows = {{"loss", fmt::format("{:.6f} nats per token", result.nats)},
                                      {"perplexity", fmt::format("{:.4f}", result.perplexity())}};
  if (result.accuracy)
    rows.push_back({"accuracy", fmt::format("{:.3f} %", 100 * *result.accuracy)});
  else
    rows.push_back({"bits per byte", result.bits_per_byte > 0
                                         ? fmt::format("{:.4f}", result.bits_per_byte)
                                         : "unknown (imported tokens)"});
  const double per_second = static_cast<double>(result.n_targets) / result.seconds;
  rows.push_back({"targets", format_thousands(result.n_targets)});
  rows.push_back({"time", fmt::format("{}, {} {}/s", format_duration(result.seconds),
                                      format_thousands(std::llround(per_second)),
                                      result.accuracy ? "targets" : "tok")});
  return rows;
}

int run(const Options& options) {
  const at::Device device = pick_device(options.device);
  const LoadedModel loaded =
      load_model(options.run, device, compute_dtype(options.precision, device));
  if (!options.logits.empty()) return write_logits(options, loaded, device);
  const bool probes_alone = options.recall && options.data.empty();
  if (probes_alone && options.by_position)
    throw Error("--by-position: is about the loss on a dataset; name one with --data");
  std::vector<RecallScore> scores;
  if (options.recall) scores = recall(options, loaded, device);
  std::optional<EvaluationResult> result;
  LoaderOptions data;
  std::string data_name;
  if (!probes_alone) {
    data = samples(options, loaded);
    data_name = data.recall ? "task " + data.recall->task : options.data;
    result = loss(options, data, loaded, device);
  }
  if (options.json) {
    nlohmann::json line = {{"checkpoint", loaded.path}};
    if (result) {
      line.update(to_json(*result));
      line.update({{"data", data_name}, {"split", options.split}, {"context", data.context}});
    }
    if (options.recall) line["recall"] = to_json(scores);
    std::printf("%s\n", line.dump().c_str());
    return 0;
  }
  std::vector<DescriptionRow> rows = {{"checkpoint", loaded.path}};
  if (result) {
    rows.push_back(
        {"data", fmt::format("{} ({}), context {}", data_name, options.split, data.context)});
    for (DescriptionRow& row : loss_rows(*result)) rows.push_back(std::move(row));
  }
  std::printf("%s", description_text(rows).c_str());
  if (result && options.by_position) std::printf("\n%s", position_table(*result).c_str());
  if (options.recall) std::printf("\n%s", readable(scores).c_str());
  return 0;
}

const RegisterCommand kEval(40, "eval", "loss of a trained model on a dataset", [](CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("run", options->run, "run folder (newest valid checkpoint) or one checkpoint")
      ->required();
  app.add_option("--data", options->data,
                 "dataset folder; not of a model trained on a task, which has its own test set");
  app.add_option("--split", options->split, "train or valid")
      ->capture_default_str()
      ->check(CLI::IsMember({"train", "valid"}));
  app.add_option("--context", options->context, "tokens per sample; 0: as in training")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--cross-document", options->cross_document,
                 "mask or allow, as data.cross_document")
      ->capture_default_str()
      ->check(CLI::IsMember({"mask", "allow"}));
  app.add_option("--batch", options->batch, "samples at a time; does not change the result")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--samples", options->samples, "only the first samples; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  app.add_option("--precision", options->precision, "fp32, bf16 or auto")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "bf16", "auto"}));
  app.add_flag("--by-position", options->by_position,
               "also the loss by position in the context, in powers of two");
  CLI::Option* recall = app.add_flag(
      "--recall", options->recall,
      "also probe what the model recalls of its context, untrained: induction, copying, "
      "phonebook, needle, mqar; without --data the probes alone");
  app.add_option("--recall-context", options->recall_contexts,
                 "tokens per probe, several as in 256,512,1024 [as --context]")
      ->delimiter(',')
      ->needs(recall)
      ->check(CLI::Range(16, 1 << 24));
  app.add_option("--recall-samples", options->recall_samples, "sequences per probe and context")
      ->capture_default_str()
      ->needs(recall)
      ->check(CLI::Range(1, 1 << 20));
  app.add_flag("--json", options->json,
               "print one line of JSON, with the loss by position and of each sample");
  app.add_option("--logits", options->logits,
                 "write the logits of --tokens to this safetensors file instead");
  app.add_option("--tokens", options->tokens, "rows of token ids for --logits, as in 1,2,3;4,5");
  return [options] {
    start_logging();
    return run(*options);
  };
});

}  // namespace
}  // namespace ceiling
