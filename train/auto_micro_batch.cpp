#include "train/auto_micro_batch.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "modules/ops/device.h"
#include "train/memory.h"

namespace ceiling {

namespace {

constexpr double kLeaveFree = 0.1;  // for allocations of another shape later: evaluation, documents

// Whether n samples went through forward and backward.
bool try_size(LanguageModel& model, at::Device device, MicroStepOptions options, int64_t context,
              int64_t n) {
  options.micro_batch = n;
  options.graph = false;
  const std::vector<int32_t> zeros(static_cast<size_t>(n * context));
  Batch batch;
  batch.n_samples = n, batch.context = context;
  batch.tokens = batch.targets = batch.documents = zeros.data();
  try {
    MicroStep step(model, device, options);
    step.run(batch, 0, n);
    synchronize(device);
    return true;
  } catch (const c10::OutOfMemoryError&) {
    return false;
  } catch (const c10::Error& error) {  // a library that could not get its workspace
    if (std::string(error.what()).find("memory") == std::string::npos &&
        std::string(error.what()).find("ALLOC_FAILED") == std::string::npos)
      throw;
    return false;
  }
}

}  // namespace

int64_t largest_micro_batch(LanguageModel& model, at::Tensor gradients,
                            const MicroStepOptions& options, int64_t context, int64_t most,
                            Communicator& world) {
  const at::Device device = gradients.device();
  int64_t fits = 0;
  for (int64_t n = 1;; n = std::min(2 * n, most)) {
    const double limit = (1 - kLeaveFree) * memory_total_bytes(device);
    reset_peak_memory(device);
    if (!try_size(model, device, options, context, n) || memory_bytes(device) > limit) break;
    fits = n;
    if (n == most || memory_bytes(device) > limit / 2) break;  // twice as much would not fit
  }
  reset_peak_memory(device);
  gradients.zero_();
  for (const auto& rank :
       world.gather_numbers({static_cast<double>(fits)}, "the choice of a micro-batch"))
    fits = std::min(fits, static_cast<int64_t>(rank[0]));
  if (fits == 0)
    throw Error(
        "not even one sample of {} tokens fits into the memory of {}; lower data.context, set "
        "train.recompute: block, or train a smaller model",
        context, device_name(device));
  const int64_t n_passes = (most + fits - 1) / fits;
  return (most + n_passes - 1) / n_passes;
}

}  // namespace ceiling
