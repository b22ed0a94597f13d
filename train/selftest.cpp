#include "train/selftest.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdlib>

#include "base/error.h"
#include "base/files.h"
#include "modules/ops/device.h"
#include "modules/ops/selftest.h"

namespace ceiling {

namespace {

// Empty where there is no home: the tests run every time then.
std::string cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    return std::string(cache) + "/ceiling";
  const char* home = std::getenv("HOME");
  return home && *home ? std::string(home) + "/.cache/ceiling" : "";
}

}  // namespace

void require_selftest(at::Device device) {
  if (device.is_cpu()) return;
  const std::string folder = cache_folder();
  const std::string stamp =
      folder.empty() ? "" : folder + "/selftest-" + device_fingerprint(device).substr(0, 32);
  if (!stamp.empty() && fs::exists(stamp)) return;
  spdlog::info("self-test: every kernel against its reference on {}, once for this build",
               device_name(device));
  const auto start = std::chrono::steady_clock::now();
  SelftestReport report(device);
  run_selftests("", report);
  std::string failed;
  for (const SelftestRow& row : report.rows())
    if (!row.passed())
      failed += fmt::format("  {} {}: error {:.2e}, at most {:.0e}\n", row.op, row.shape, row.error,
                            row.bound);
  if (!failed.empty())
    throw Error(
        "{}: kernels of this build compute wrong results here:\n{}Nothing was trained. Run "
        "`ceiling "
        "selftest` for all of them; set run.device: cpu to train on the processor",
        device_name(device), failed);
  spdlog::info("self-test: {} checks passed on {} in {:.1f} s", report.rows().size(),
               device_name(device),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (stamp.empty()) return;
  try {
    fs::create_directories(folder);
    write_file_atomic(stamp, device_name(device) + "\n");
  } catch (const std::exception&) {  // a cache that cannot be written costs a repetition, no more
  }
}

}  // namespace ceiling
