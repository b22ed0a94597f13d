#include "train/peak.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/text.h"
#include "modules/ops/device.h"

namespace ceiling {

Peak peak_of(at::Device device, at::ScalarType compute) {
  const std::string type = compute == at::kBFloat16 ? "bf16"
                           : compute == at::kFloat  ? "fp32"
                                                    : "fp64";
  if (device.is_cuda() && compute == at::kBFloat16) {
    // NVIDIA data sheets, dense: H100 SXM and H200 989.4, H100 PCIe 756, A100 312 TFLOP/s.
    const std::string name = device_name(device);
    const std::pair<const char*, double> known[] = {
        {"H100 PCIe", 756e12}, {"H100", 989.4e12}, {"H200", 989.4e12}, {"A100", 312e12}};
    for (const auto& [part, flops] : known)
      if (name.find(part) != std::string::npos)
        return {.flops_per_s = flops, .source = std::string(part) + " data sheet, bf16 dense"};
  }
  at::NoGradGuard no_grad;
  const int64_t n = 1024;
  const at::Tensor a = at::ones({n, n}, at::TensorOptions().dtype(compute).device(device));
  double best_s = 1e9, spent_s = 0;
  for (int run = 0; run < 3 || (spent_s < 0.3 && run < 100); ++run) {
    synchronize(device);
    const auto start = std::chrono::steady_clock::now();
    at::mm(a, a);
    synchronize(device);
    const double s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best_s = std::min(best_s, s), spent_s += s;
  }
  return {
      .flops_per_s = 2.0 * n * n * n / best_s,
      .source = fmt::format("measured: {}^3 matrix product, {}, {} threads", n, type,
                            at::get_num_threads()),
      .measurements_left = 3,
  };
}

double utilisation(Peak& peak, double flops_per_s, at::Device device, at::ScalarType compute) {
  if (flops_per_s > peak.flops_per_s && peak.measurements_left > 0) {
    --peak.measurements_left;
    const double again = peak_of(device, compute).flops_per_s;
    if (again > peak.flops_per_s) {
      spdlog::info("mfu: the peak was measured while the machine was busy; it is {}FLOP/s",
                   format_count(again));
      peak.flops_per_s = again;
    }
  }
  return peak.flops_per_s > 0 ? flops_per_s / peak.flops_per_s : 0;
}

}  // namespace ceiling
