#include "train/micro_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/error.h"

namespace ceiling {

namespace {
// Libraries choose algorithms and make workspaces in the first runs; a graph must not.
constexpr int64_t kRunsBeforeCapture = 3;
}  // namespace

MicroStep::MicroStep(LanguageModel& model, at::Device device, const MicroStepOptions& options)
    : model_(model),
      device_(device),
      options_(options),
      total_(at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device))) {
  options_.graph = options_.graph && device.is_cuda();
}

void MicroStep::forward_backward(const DeviceBatch& batch) {
  const at::Tensor hidden =
      model_.hidden(batch.tokens, batch.segments, nullptr, options_.recompute);
  const at::Tensor loss =
      model_
          .loss(hidden, batch.targets,
                {.scale = options_.scale, .z_loss = options_.z_loss, .per_token = false})
          .loss;
  torch::autograd::backward({loss}, {});
  at::NoGradGuard no_grad;
  total_.add_(loss.detach());
}

void MicroStep::run(const Batch& batch, int64_t first, int64_t n) {
  const bool recorded = options_.graph && n == options_.micro_batch;
  if (graph_ && recorded && copy_to_device(batch, first, n, held_)) return graph_->replay();
  const bool record = recorded && !graph_ && runs_++ >= kRunsBeforeCapture;
  // A graph's path and sizes are fixed: with documents, or never, and room for twice as many as in
  // the batch it is recorded with. A batch of more documents than that goes the ordinary way.
  DeviceBatch micro = to_device(batch, first, n, device_, 0);
  if (!record) return forward_backward(micro);
  if (options_.documents) {
    const int64_t now = micro.segments.any() ? micro.segments.bounds.size(0) : n;
    micro = to_device(batch, first, n, device_, 2 * now + 64);
  }
  held_ = std::move(micro);
  try {
    graph_ = capture_work([&] { forward_backward(held_); });
  } catch (const std::exception& error) {
    throw Error("the step could not be recorded as a CUDA graph; set train.cuda_graph: false ({})",
                error.what());
  }
  graph_->replay();
}

}  // namespace ceiling
