#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/stop.h"
#include "train/device_batch.h"

namespace ceiling {

double EvaluationResult::perplexity() const { return std::exp(nats); }

namespace {

// One rank's sums; all ranks' of equal numbers of batches.
struct Sums {
  double nats = 0, n_targets = 0, n_samples = 0, n_right = 0;
};

// The sums over ranks so far. Throws Interrupted on every rank if one was asked to stop.
Sums agree(Communicator& world, const Sums& mine) {
  Sums total;
  int signal = 0;
  for (const auto& numbers :
       world.gather_numbers({mine.nats, mine.n_targets, mine.n_samples, mine.n_right,
                             static_cast<double>(stop::requested())},
                            "evaluation")) {
    total.nats += numbers[0], total.n_targets += numbers[1], total.n_samples += numbers[2];
    total.n_right += numbers[3];
    if (signal == 0) signal = static_cast<int>(numbers[4]);
  }
  if (signal != 0) throw Interrupted(signal);
  return total;
}

// Targets that get the largest logit. Logits are computed where a target stands only.
double n_right(LanguageModel& model, const at::Tensor& hidden, const at::Tensor& targets) {
  const at::Tensor where = targets.flatten().ge(0).nonzero().squeeze(1);
  const at::Tensor asked = hidden.flatten(0, 1).index_select(0, where).unsqueeze(0);
  const at::Tensor answers = model.logits(asked).argmax(-1).squeeze(0);
  return answers.eq(targets.flatten().index_select(0, where)).sum().item<double>();
}

}  // namespace

EvaluationResult evaluate(LanguageModel& model, LoaderOptions loader_options,
                          const EvaluationOptions& options, at::Device device,
                          Communicator* several) {
  at::NoGradGuard no_grad;
  SelfCommunicator alone;
  Communicator& world = several ? *several : alone;
  const auto start = std::chrono::steady_clock::now();
  loader_options.shuffle = false;
  loader_options.first_position = 0;
  loader_options.global_batch = options.micro_batch * loader_options.world_size;
  loader_options.end_position = Loader::evaluation_samples(loader_options);
  if (options.max_samples > 0)
    loader_options.end_position = std::min(*loader_options.end_position, options.max_samples);
  Loader loader(loader_options);
  EvaluationResult result;
  Sums mine, total;
  while (const auto batch = loader.next()) {
    if (batch->n_samples > 0) {  // the tail may leave nothing for this rank
      const DeviceBatch on_device = to_device(*batch, 0, batch->n_samples, device);
      const at::Tensor hidden = model.hidden(on_device.tokens, on_device.segments, nullptr);
      // Per-token losses in fp32, added up in fp64 on the CPU: the sum does not depend on how
      // samples were grouped.
      const at::Tensor losses =
          model.loss(hidden, on_device.targets, {.scale = 1, .z_loss = 0, .per_token = true})
              .token_loss;
      mine.nats += losses.to(at::kDouble).sum().item<double>();
      if (loader_options.recall) mine.n_right += n_right(model, hidden, on_device.targets);
      mine.n_targets += static_cast<double>(batch->n_targets);
      mine.n_samples += static_cast<double>(batch->n_samples);
    }
    total = agree(world, mine);
    result.n_targets = static_cast<int64_t>(total.n_targets);
    result.n_samples = static_cast<int64_t>(total.n_samples);
    if (result.n_targets > 0) result.nats = total.nats / total.n_targets;
    if (result.n_targets > 0 && loader_options.recall)
      result.accuracy = total.n_right / total.n_targets;
    if (options.on_progress)
      options.on_progress(total.n_samples / static_cast<double>(*loader_options.end_position),
                          result);
  }
  const double bytes_per_token = loader.text_bytes_per_token();
  if (bytes_per_token > 0) result.bits_per_byte = result.nats / std::log(2.0) / bytes_per_token;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace ceiling
