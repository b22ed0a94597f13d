// ceiling bench ops|model|decode|loader
#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "modules/ops/bench.h"
#include "modules/ops/device.h"
#include "train/command.h"
#include "train/logging.h"
#include "train/model_bench.h"
#include "train/setup.h"

namespace ceiling {
namespace {

// What an H100 SXM does at best, measured: a large copy, and large bfloat16 products. The floor of
// an op is what its bytes and its arithmetic need at these rates.
constexpr double kGpuBytesPerMs = 3.0e9, kGpuFlopsPerMs = 7.98e11;

struct OpsOptions {
  std::string filter, device = "auto";
  int threads = 0;
  bool json = false;
};

int bench_ops(const OpsOptions& options) {
  if (options.threads > 0) at::set_num_threads(options.threads);
  BenchReport report(pick_device(options.device));
  const bool cpu = report.device().is_cpu();
  run_benches(options.filter, report);
  if (report.rows().empty()) throw Error("bench: no op matches '{}'", options.filter);
  if (!options.json)
    std::printf(
        "%s\n%-24s %-48s %-5s %10s %10s %10s %s\n",
        (cpu ? fmt::format("{}, {} threads", device_name(report.device()), at::get_num_threads())
             : device_name(report.device()))
            .c_str(),
        "op", "shape", "pass", "ms", "GB/s", "TFLOP/s", cpu ? "" : " % of floor   peak MiB");
  for (const BenchRow& row : report.rows()) {
    const double floor_ms = std::max(row.bytes / kGpuBytesPerMs, row.flops / kGpuFlopsPerMs);
    if (options.json) {
      nlohmann::json line = {{"op", row.op},
                             {"shape", row.shape},
                             {"pass", row.pass},
                             {"ms", row.ms},
                             {"bytes", row.bytes},
                             {"flops", row.flops},
                             {"peak_bytes", row.peak_bytes}};
      if (!cpu) line["floor_ms"] = floor_ms;
      std::printf("%s\n", line.dump().c_str());
      continue;
    }
    std::printf("%-24s %-48s %-5s %10.3f %10.1f %10.3f", row.op.c_str(), row.shape.c_str(),
                row.pass.c_str(), row.ms, row.bytes / row.ms / 1e6, row.flops / row.ms / 1e9);
    if (!cpu) std::printf(" %12.0f %10.0f", 100 * floor_ms / row.ms, row.peak_bytes / (1 << 20));
    std::printf("\n");
  }
  return 0;
}

struct ModelOptions {
  std::string config;
  std::vector<std::string> overrides;
  int64_t vocab_size = 50304, steps = 20, batch = 1, tokens = 30;
  std::vector<int64_t> lengths = {0, 2048, 16384};
  bool json = false;
};

// Presets leave the dataset to the user; none is read here.
RunConfig config_of(const ModelOptions& options) {
  std::vector<std::string> overrides = {"data.task=none", "data.path=unused"};
  overrides.insert(overrides.end(), options.overrides.begin(), options.overrides.end());
  return load_run_config(options.config, overrides);
}

int bench_model(const ModelOptions& options) {
  RunConfig config = config_of(options);
  const TrainingTimes t = time_training(std::move(config), options.vocab_size, options.steps);
  const double tokens_per_s = static_cast<double>(t.tokens_per_step) / (t.step_ms / 1e3);
  if (options.json) {
    std::printf("%s\n", nlohmann::json({{"parameters", t.n_parameters},
                                        {"tokens_per_step", t.tokens_per_step},
                                        {"tokens_per_s", tokens_per_s},
                                        {"step_ms", t.step_ms},
                                        {"fastest_step_ms", t.fastest_step_ms},
                                        {"first_step_s", t.first_step_s},
                                        {"mfu", t.mfu},
                                        {"peak_bytes", t.peak_bytes}})
                            .dump()
                            .c_str());
    return 0;
  }
  std::printf(
      "%s parameters, %s tokens a step: %s tok/s, %.2f ms a step, mfu %.1f %%, %s, first step %.2f "
      "s\n",
      format_thousands(t.n_parameters).c_str(), format_thousands(t.tokens_per_step).c_str(),
      format_thousands(static_cast<int64_t>(tokens_per_s)).c_str(), t.step_ms, 100 * t.mfu,
      format_bytes(t.peak_bytes).c_str(), t.first_step_s);
  if (t.step_ms > kUneven * t.fastest_step_ms)
    std::printf("the fastest step took %.2f ms: something else ran on this machine meanwhile\n",
                t.fastest_step_ms);
  return 0;
}

int bench_decode(const ModelOptions& options) {
  RunConfig config = config_of(options);
  for (size_t i = 1; i < options.lengths.size(); ++i)
    if (options.lengths[i] < options.lengths[i - 1])
      throw Error("--length: the lengths must ascend");
  const auto all = time_decoding(std::move(config), options.vocab_size, options.batch,
                                 options.lengths, options.tokens);
  if (!options.json)
    std::printf("%8s %10s %12s %12s %14s %12s\n", "batch", "length", "ms/token", "tok/s",
                "state a row", "memory");
  for (const DecodeTimes& t : all) {
    const double tokens_per_s = static_cast<double>(t.batch) / (t.token_ms / 1e3);
    if (options.json)
      std::printf("%s\n", nlohmann::json({{"batch", t.batch},
                                          {"length", t.length},
                                          {"ms_per_token", t.token_ms},
                                          {"tokens_per_s", tokens_per_s},
                                          {"state_bytes", t.state_bytes},
                                          {"peak_bytes", t.peak_bytes}})
                              .dump()
                              .c_str());
    else
      std::printf("%8s %10s %12.3f %12s %14s %12s\n", format_thousands(t.batch).c_str(),
                  format_thousands(t.length).c_str(), t.token_ms,
                  format_thousands(static_cast<int64_t>(tokens_per_s)).c_str(),
                  format_bytes(t.state_bytes).c_str(), format_bytes(t.peak_bytes).c_str());
  }
  return 0;
}

struct LoaderBench {
  std::string data;
  int64_t context = 1024, batch = 32, steps = 500;
  bool json = false;
};

// Batches as training takes them, as fast as they come.
int bench_loader(const LoaderBench& options) {
  LoaderOptions data;
  data.parts = {{options.data, 1.0}};
  data.context = options.context, data.global_batch = options.batch;
  Loader loader(data);
  loader.next();  // opens the files
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < options.steps; ++i) loader.next();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double step_ms = 1e3 * seconds / static_cast<double>(options.steps);
  const double tokens_per_s =
      static_cast<double>(options.steps * options.batch * options.context) / seconds;
  if (options.json)
    std::printf(
        "%s\n",
        nlohmann::json({{"tokens_per_s", tokens_per_s}, {"step_ms", step_ms}}).dump().c_str());
  else
    std::printf("%s tok/s, %.3f ms a step of %s tokens\n",
                format_thousands(static_cast<int64_t>(tokens_per_s)).c_str(), step_ms,
                format_thousands(options.batch * options.context).c_str());
  return 0;
}

const RegisterCommand kBench(
    80, "bench", "time ops, training, decoding and the data loader on this machine",
    [](CLI::App& app) {
      auto ops_options = std::make_shared<OpsOptions>();
      auto model_options = std::make_shared<ModelOptions>();
      app.require_subcommand(1);
      CLI::App* ops = app.add_subcommand("ops", "time every op, forward and backward");
      ops->add_option("filter", ops_options->filter, "only ops whose name contains this");
      ops->add_option("--device", ops_options->device, "auto, cpu or cuda")->capture_default_str();
      ops->add_option("--threads", ops_options->threads, "CPU threads; 0: all")
          ->capture_default_str();
      ops->add_flag("--json", ops_options->json,
                    "one JSON object a line: ms, bytes and flops that the result needs at least");
      const auto of_model = [&](const char* name, const char* summary) {
        CLI::App* command = app.add_subcommand(name, summary);
        command->add_option("config", model_options->config, "YAML file of a run")->required();
        command->add_option("overrides", model_options->overrides,
                            "keys set from here, as in train.micro_batch=16");
        command->add_option("--vocab", model_options->vocab_size, "size of the vocabulary")
            ->capture_default_str();
        command->add_flag("--json", model_options->json, "JSON");
        return command;
      };
      of_model("model", "time training steps on random tokens, without a dataset")
          ->add_option("--steps", model_options->steps, "steps to time")
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
      CLI::App* decode =
          of_model("decode", "time decoding one token at a time, after several lengths");
      decode->add_option("--batch", model_options->batch, "rows")
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
      decode->add_option("--length", model_options->lengths, "tokens before, ascending")
          ->capture_default_str();
      decode->add_option("--tokens", model_options->tokens, "tokens to time")
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
      auto loader_options = std::make_shared<LoaderBench>();
      CLI::App* loader =
          app.add_subcommand("loader", "time reading batches of a dataset, without a model");
      loader->add_option("dataset", loader_options->data, "dataset folder")->required();
      const auto count = [&](const char* name, int64_t& value, const char* summary) {
        loader->add_option(name, value, summary)->check(CLI::PositiveNumber)->capture_default_str();
      };
      count("--context", loader_options->context, "tokens a sample");
      count("--batch", loader_options->batch, "samples a step");
      count("--steps", loader_options->steps, "steps to time");
      loader->add_flag("--json", loader_options->json, "JSON");
      return [=, &app] {
        start_logging();
        if (app.got_subcommand("loader")) return bench_loader(*loader_options);
        if (app.got_subcommand("ops")) return bench_ops(*ops_options);
        return app.got_subcommand("model") ? bench_model(*model_options)
                                           : bench_decode(*model_options);
      };
    });

}  // namespace
}  // namespace ceiling
