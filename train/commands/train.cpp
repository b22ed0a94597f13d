// ceiling train CONFIG [key=value ...]
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>

#include "base/text.h"
#include "base/version.h"
#include "train/command.h"
#include "train/describe.h"
#include "train/logging.h"
#include "train/run_config.h"
#include "train/setup.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

int dry_run(RunConfig config) {
  const at::Device device = setup_device(config);
  const at::ScalarType compute = compute_dtype(config.train.precision, device);
  const std::unique_ptr<LanguageModel> model = build_model(config, vocabulary(config));
  const std::string yaml = resolved_yaml(config);
  const auto rows = describe_run(config, *model, device, compute, peak_of(device, compute),
                                 config.parallel.ranks.value_or(1));
  for (const std::string& remark : config.remarks()) spdlog::warn("{}", remark);
  std::printf("%s\n%s", yaml.c_str(), description_text(rows).c_str());
  return 0;
}

const RegisterCommand kTrain(
    20, "train", "train a model, or continue a run that was interrupted", [](CLI::App& app) {
      struct Options {
        std::string config;
        std::vector<std::string> overrides;
        int64_t ranks = 0, gpus = 0;
        bool dry_run = false;
      };
      auto options = std::make_shared<Options>();
      app.add_option("config", options->config, "YAML file of the run")->required();
      app.add_option("overrides", options->overrides,
                     "keys set from here, as in train.lr=3e-4 data.path=data/books");
      CLI::Option* gpus = app.add_option("--gpus", options->gpus,
                                         "train on this many GPUs of this host, a process each")
                              ->check(CLI::PositiveNumber);
      app.add_option("--ranks", options->ranks,
                     "train in this many processes that share the processor (parallel.ranks)")
          ->check(CLI::PositiveNumber)
          ->excludes(gpus);
      app.add_flag(
          "--dry-run", options->dry_run,
          "print the resolved config, parameters, FLOPs, memory and tokens, and do nothing");
      app.footer(
          "Running the same command again continues from the newest valid checkpoint in run.dir,\n"
          "also with another number of processes. Under torchrun, srun or mpirun neither --gpus "
          "nor\n"
          "--ranks is needed; docs/scale.md has recipes.\n"
          "Ctrl-C (SIGINT), SIGTERM, SIGUSR1 and train.time_limit save and exit; a second signal "
          "exits at once.\n"
          "Exit codes: 0 finished, 1 error, 2 bad usage, 3 time limit reached, 4 loss or gradients "
          "not finite,\n"
          "128 + signal when stopped.");
      return [options] {
        start_logging();
        std::vector<std::string> overrides = options->overrides;
        if (options->gpus > 0) overrides.push_back("run.device=cuda");
        // A process that this command has started already has the number from its environment.
        if (const int64_t n = std::max(options->gpus, options->ranks))
          overrides.push_back("parallel.ranks=" + std::to_string(n));
        RunConfig config = load_run_config(options->config, overrides);
        return options->dry_run ? dry_run(std::move(config)) : train(std::move(config));
      };
    });

}  // namespace
}  // namespace ceiling
