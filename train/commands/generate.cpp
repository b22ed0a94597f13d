// ceiling generate RUN --prompt TEXT
#include <cstdio>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "modules/ops/device.h"
#include "train/command.h"
#include "train/load_model.h"
#include "train/logging.h"
#include "train/sampler.h"
#include "train/setup.h"

namespace ceiling {
namespace {

struct Options {
  std::string run, prompt_file, device = "auto", precision = "fp32";
  std::vector<std::string> prompts;
  SamplingOptions sampling{.temperature = 0.8, .max_tokens = 200};
  int64_t samples = 1;
};

// Characters may span tokens: what is not yet whole waits for the next token.
class Utf8Printer {
 public:
  void add(const std::string& bytes) {
    held_ += bytes;
    const size_t whole = invalid_utf8(held_).value_or(held_.size());
    const bool incomplete = held_.size() - whole < 4;
    const size_t print = incomplete ? whole : held_.size();
    int64_t replaced = 0;
    std::fputs(repair_utf8(held_.substr(0, print), &replaced).c_str(), stdout);
    std::fflush(stdout);
    held_.erase(0, print);
  }
  void end() {
    int64_t replaced = 0;
    std::fputs((repair_utf8(held_, &replaced) + "\n").c_str(), stdout);
    std::fflush(stdout);  // before the statistics on stderr
    held_.clear();
  }

 private:
  std::string held_;
};

int run(const Options& options) {
  check_sampling(options.sampling);
  const at::Device device = pick_device(options.device);
  const LoadedModel loaded =
      load_model(options.run, device, compute_dtype(options.precision, device));
  if (!loaded.task().empty())
    throw Error(
        "{}: was trained on the synthetic task {}, whose tokens stand for no text, so there is "
        "nothing to continue; `ceiling eval RUN` tells how well it solves the task",
        loaded.path, loaded.task());
  if (!loaded.tokenizer)
    throw Error(
        "{}: the tokenizer '{}' is not stored with the checkpoint, so text cannot be encoded",
        loaded.path, loaded.state.at("tokenizer").at("name").get<std::string>());
  std::vector<std::string> texts = options.prompts;
  if (!options.prompt_file.empty())
    for (const std::string& line : split(read_file(options.prompt_file), '\n'))
      texts.push_back(line);
  if (!options.prompt_file.empty() && texts.back().empty()) texts.pop_back();
  if (texts.empty()) texts.push_back("");
  std::vector<std::vector<uint32_t>> prompts;
  std::vector<std::string> shown;
  for (const std::string& text : texts) {
    for (int64_t i = 0; i < options.samples; ++i) {
      prompts.push_back(encode_prompt(*loaded.tokenizer, text, loaded.bos()));
      shown.push_back(text);
    }
  }
  GenerateTimes times;
  const bool stream = prompts.size() == 1;
  Utf8Printer printer;
  if (stream) printer.add(shown[0]);
  const auto on_token = [&](size_t, uint32_t token) {
    if (stream) printer.add(loaded.tokenizer->decode(std::span(&token, 1)));
  };
  const auto results = generate(*loaded.model, prompts, loaded.tokenizer->info().eos,
                                options.sampling, device, &times, on_token);
  for (size_t i = 0; i < results.size() && !stream; ++i) {
    printer.add((i > 0 ? "---\n" : "") + shown[i] + loaded.tokenizer->decode(results[i].tokens));
    printer.end();
  }
  if (stream) printer.end();
  std::fprintf(
      stderr, "%lld prompt tokens in %s, %lld new tokens at %s tok/s, state %s per sequence\n",
      static_cast<long long>(times.prefill_tokens), format_duration(times.prefill_s).c_str(),
      static_cast<long long>(times.decode_tokens),
      format_thousands(
          std::llround(static_cast<double>(times.decode_tokens) / std::max(times.decode_s, 1e-9)))
          .c_str(),
      format_bytes(
          loaded.model->state_bytes(times.prefill_tokens / static_cast<int64_t>(prompts.size()) +
                                        options.sampling.max_tokens,
                                    4))
          .c_str());
  return 0;
}

const RegisterCommand kGenerate(
    30, "generate", "continue a text with a trained model", [](CLI::App& app) {
      auto options = std::make_shared<Options>();
      app.add_option("run", options->run, "run folder (newest valid checkpoint) or one checkpoint")
          ->required();
      app.add_option("--prompt", options->prompts,
                     "text to continue; may be given several times; default: start of a document");
      app.add_option("--prompt-file", options->prompt_file, "one prompt a line");
      app.add_option("--max-tokens", options->sampling.max_tokens,
                     "new tokens at most; ends earlier at end of document")
          ->capture_default_str();
      app.add_option("--temperature", options->sampling.temperature,
                     "0 takes the most probable token")
          ->capture_default_str();
      app.add_option("--top-k", options->sampling.top_k, "choose among the k most probable; 0: all")
          ->capture_default_str();
      app.add_option("--top-p", options->sampling.top_p,
                     "choose among the fewest tokens of this total probability")
          ->capture_default_str();
      app.add_option("--seed", options->sampling.seed, "of the random choices")
          ->capture_default_str();
      app.add_option("--samples", options->samples, "continuations per prompt")
          ->capture_default_str()
          ->check(CLI::Range(1, 100000));
      app.add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
      app.add_option("--precision", options->precision, "fp32, bf16 or auto")
          ->capture_default_str()
          ->check(CLI::IsMember({"fp32", "bf16", "auto"}));
      return [options] {
        start_logging();
        return run(*options);
      };
    });

}  // namespace
}  // namespace ceiling
