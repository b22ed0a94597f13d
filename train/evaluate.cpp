#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>

#include "base/stop.h"
#include "train/device_batch.h"

namespace ceiling {

double EvaluationResult::perplexity() const { return std::exp(nats); }

EvaluationResult evaluate(LanguageModel& model, LoaderOptions loader_options,
                          const EvaluationOptions& options, at::Device device) {
  at::NoGradGuard no_grad;
  const auto start = std::chrono::steady_clock::now();
  loader_options.shuffle = false;
  loader_options.first_position = 0;
  loader_options.global_batch = options.micro_batch;
  loader_options.end_position = Loader::evaluation_samples(loader_options);
  if (options.max_samples > 0)
    loader_options.end_position = std::min(*loader_options.end_position, options.max_samples);
  Loader loader(loader_options);
  EvaluationResult result;
  double total_nats = 0;
  while (const auto batch = loader.next()) {
    stop::check();
    const DeviceBatch on_device = to_device(*batch, 0, batch->n_samples, device);
    const at::Tensor hidden = model.hidden(on_device.tokens, on_device.segments, nullptr);
    // Per-token losses in fp32, added up in fp64 on the CPU: the sum does not depend on how samples
    // were grouped.
    const at::Tensor losses =
        model.loss(hidden, on_device.targets, {.scale = 1, .z_loss = 0, .per_token = true})
            .token_loss;
    total_nats += losses.to(at::kDouble).sum().item<double>();
    result.n_targets += batch->n_targets;
    result.n_samples += batch->n_samples;
    if (result.n_targets > 0) result.nats = total_nats / static_cast<double>(result.n_targets);
    if (options.on_progress)
      options.on_progress(
          static_cast<double>(result.n_samples) / static_cast<double>(*loader_options.end_position),
          result);
  }
  const double bytes_per_token = loader.text_bytes_per_token();
  if (bytes_per_token > 0) result.bits_per_byte = result.nats / std::log(2.0) / bytes_per_token;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace ceiling
