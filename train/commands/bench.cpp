// ceiling bench ops [FILTER]
#include <ATen/Parallel.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "modules/ops/bench.h"
#include "modules/ops/device.h"
#include "train/command.h"
#include "train/logging.h"

namespace ceiling {
namespace {

struct Options {
  std::string filter, device = "auto";
  int threads = 0;
  bool json = false;
};

int run(const Options& options) {
  if (options.threads > 0) at::set_num_threads(options.threads);
  BenchReport report(pick_device(options.device));
  run_benches(options.filter, report);
  if (report.rows().empty()) throw Error("bench: no op matches '{}'", options.filter);
  if (!options.json) {
    const std::string where = report.device().is_cpu()
                                  ? fmt::format("cpu, {} threads", at::get_num_threads())
                                  : device_name(report.device());
    std::printf("%s\n%-24s %-40s %-5s %10s %10s %10s\n", where.c_str(), "op", "shape", "pass", "ms",
                "GB/s", "GFLOP/s");
  }
  for (const BenchRow& row : report.rows()) {
    if (options.json) {
      std::printf("%s\n", nlohmann::json({{"op", row.op},
                                          {"shape", row.shape},
                                          {"pass", row.pass},
                                          {"ms", row.ms},
                                          {"bytes", row.bytes},
                                          {"flops", row.flops}})
                              .dump()
                              .c_str());
      continue;
    }
    std::printf("%-24s %-40s %-5s %10.3f %10.1f %10.1f\n", row.op.c_str(), row.shape.c_str(),
                row.pass.c_str(), row.ms, row.bytes / row.ms / 1e6, row.flops / row.ms / 1e6);
  }
  return 0;
}

const RegisterCommand kBench(80, "bench", "time the ops on this machine", [](CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* ops = app.add_subcommand("ops", "time every op, forward and backward");
  app.require_subcommand(1);
  ops->add_option("filter", options->filter, "only ops whose name contains this");
  ops->add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
  ops->add_option("--threads", options->threads, "CPU threads; 0: all")->capture_default_str();
  ops->add_flag("--json", options->json,
                "one JSON object a line: ms, bytes and flops that the result needs at least");
  return [options] {
    start_logging();
    return run(*options);
  };
});

}  // namespace
}  // namespace ceiling
