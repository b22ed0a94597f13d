#include "modules/ops/bench.h"

#include <algorithm>
#include <chrono>

#include "modules/ops/device.h"

namespace ceiling {

namespace {
struct Bench {
  std::string op;
  std::function<void(BenchReport&)> run;
};
std::vector<Bench>& benches() {
  static std::vector<Bench> all;
  return all;
}
}  // namespace

RegisterBench::RegisterBench(std::string op, std::function<void(BenchReport&)> run) {
  benches().push_back({std::move(op), std::move(run)});
}

void BenchReport::time(BenchRow row, const std::function<void()>& run) {
  const auto once = [&] {
    synchronize(device_);
    const auto start = std::chrono::steady_clock::now();
    run();
    synchronize(device_);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
  };
  for (int i = 0; i < 3; ++i) once();
  // At least 5 runs, at most 100, about a second.
  std::vector<double> ms;
  for (double spent = 0; ms.size() < 5 || (ms.size() < 100 && spent < 1000);) {
    ms.push_back(once());
    spent += ms.back();
  }
  std::nth_element(ms.begin(), ms.begin() + static_cast<int64_t>(ms.size() / 2), ms.end());
  row.ms = ms[ms.size() / 2];
  rows_.push_back(std::move(row));
}

void run_benches(const std::string& filter, BenchReport& report) {
  std::sort(benches().begin(), benches().end(),
            [](const Bench& a, const Bench& b) { return a.op < b.op; });
  for (const Bench& bench : benches())
    if (bench.op.find(filter) != std::string::npos) bench.run(report);
}

}  // namespace ceiling
