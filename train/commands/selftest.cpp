// ceiling selftest [FILTER]
#include <cstdio>

#include "base/error.h"
#include "modules/ops/device.h"
#include "modules/ops/selftest.h"
#include "train/command.h"
#include "train/logging.h"

namespace ceiling {
namespace {

int run(const std::string& filter, const std::string& device) {
  SelftestReport report(pick_device(device));
  run_selftests(filter, report);
  if (report.rows().empty()) throw Error("selftest: no op matches '{}'", filter);
  std::printf("%s\n%-22s %-44s %10s %10s\n", device_name(report.device()).c_str(), "op", "shape",
              "error", "at most");
  int64_t failed = 0;
  for (const SelftestRow& row : report.rows()) {
    failed += !row.passed();
    std::printf("%-22s %-44s %10.1e %10.0e%s\n", row.op.c_str(), row.shape.c_str(), row.error,
                row.bound, row.passed() ? "" : "  FAILED");
  }
  if (failed > 0)
    throw Error("{} of {} checks failed on {}", failed, report.rows().size(),
                device_name(report.device()));
  std::printf("all %zu passed\n", report.rows().size());
  return 0;
}

const RegisterCommand kSelftest(
    85, "selftest", "check every kernel against its reference on this device", [](CLI::App& app) {
      struct Options {
        std::string filter, device = "auto";
      };
      auto options = std::make_shared<Options>();
      app.add_option("filter", options->filter, "only ops whose name contains this");
      app.add_option("--device", options->device, "auto, cpu or cuda")->capture_default_str();
      app.footer(
          "Training on a GPU runs these by itself before its first step, once per device, driver "
          "and "
          "build.");
      return [options] {
        start_logging();
        return run(options->filter, options->device);
      };
    });

}  // namespace
}  // namespace ceiling
