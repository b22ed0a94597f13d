// ceiling compare FILE [key=value ...]
#include <cstdio>

#include "base/text.h"
#include "train/command.h"
#include "train/compare/jobs.h"
#include "train/compare/runner.h"
#include "train/logging.h"

namespace ceiling {
namespace {

struct Options {
  std::string file;
  std::vector<std::string> overrides;
  bool dry_run = false, report = false;
};

int run(const Options& options) {
  const Comparison comparison = load_comparison(options.file, options.overrides);
  if (options.dry_run) {
    std::printf("%s", describe_comparison(comparison).c_str());
    return 0;
  }
  std::vector<std::string> command = {"compare", options.file};
  command.insert(command.end(), options.overrides.begin(), options.overrides.end());
  (options.report ? report_comparison : run_comparison)(comparison, command_text(command));
  return 0;
}

const RegisterCommand kCompare(
    25, "compare", "train several architectures under equal conditions and report who wins",
    [](CLI::App& app) {
      auto options = std::make_shared<Options>();
      app.add_option("file", options->file, "YAML file of the comparison")->required();
      app.add_option("overrides", options->overrides,
                     "keys set from here, as in train.steps=200 compare.jobs=2");
      app.add_flag("--dry-run", options->dry_run,
                   "print what is equal, the contenders as matched and the number of runs, and do "
                   "nothing");
      app.add_flag("--report", options->report,
                   "train nothing: write the report of what is finished so far");
      app.footer(
          "The file is a run's configuration that all contenders share, with two more sections:\n"
          "  compare:    {dir: runs/compare/kjv, lr: [1e-3, 2e-3, 4e-3], seeds: 2}\n"
          "  contenders:\n"
          "    llama:    {model: {architecture: llama, n_heads: 2}}\n"
          "    retnet:   {model: {architecture: retnet, n_heads: 2}}\n"
          "Every contender gets as many parameters, the same samples in the same order, the same\n"
          "grid of learning rates and the same seeds. Stop it at any moment; the same command "
          "goes\n"
          "on and repeats nothing that is finished. docs/compare.md explains every key and the\n"
          "report. Try: ./ceiling compare configs/compare/quickstart.yaml");
      return [options] {
        start_logging();
        return run(*options);
      };
    });

}  // namespace
}  // namespace ceiling
