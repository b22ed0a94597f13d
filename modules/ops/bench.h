// Benchmarks of ops: modules/ops/<op>/bench.cpp registers one, `ceiling bench ops` runs them.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace ceiling {

struct BenchRow {
  std::string op, shape, pass;  // "retention", "B 8 T 256 H 4 K 64 V 128 fp32", "f+b"
  double ms = 0;                // median
  double peak_bytes = 0;        // GPU: allocated beyond what was there before, at most
  double bytes = 0,
         flops = 0;  // the least that the result needs: what must be read and written, and computed
};

class BenchReport {
 public:
  explicit BenchReport(at::Device device) : device_(device) {}
  at::Device device() const { return device_; }
  // Times `run` (warm-ups, then the median of many) and adds a row.
  void time(BenchRow row, const std::function<void()>& run);
  const std::vector<BenchRow>& rows() const { return rows_; }

 private:
  at::Device device_;
  std::vector<BenchRow> rows_;
};

struct RegisterBench {
  RegisterBench(std::string op, std::function<void(BenchReport&)> run);
};

// Runs the benches whose name contains `filter`.
void run_benches(const std::string& filter, BenchReport& report);

}  // namespace ceiling
