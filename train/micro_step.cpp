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

MicroStep::MicroStep(LanguageModel& model, at::Device device, const MicroStepOptions& options,
                     DataParallel* ranks)
    : model_(model),
      device_(device),
      options_(options),
      total_(at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device))),
      ranks_(ranks) {
  options_.graph = options_.graph && device.is_cuda();
}

void MicroStep::forward_backward(const DeviceBatch& batch, bool first, bool last) {
  if (ranks_) ranks_->begin(first, last);
  if (batch.tokens.defined()) {
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
  if (ranks_) ranks_->end();
}

void MicroStep::run(const Batch& batch, int64_t begin, int64_t n, bool first, bool last) {
  if (n == 0) return forward_backward({}, first, last);
  Recording& recording = recordings_[ranks_ ? first + 2 * last : 0];
  const bool recorded = options_.graph && n == options_.micro_batch;
  if (recording.graph && recorded && copy_to_device(batch, begin, n, held_))
    return recording.graph->replay();
  const bool record = recorded && !recording.graph && recording.runs++ >= kRunsBeforeCapture;
  // A graph's path and sizes are fixed: with documents, or never, and room for twice as many as in
  // the batch it is recorded with. A batch of more documents than that goes the ordinary way.
  const bool held = recorded_ && record && copy_to_device(batch, begin, n, held_);
  if (!record || (recorded_ && !held))
    return forward_backward(to_device(batch, begin, n, device_, 0), first, last);
  if (!held) {
    held_ = to_device(batch, begin, n, device_, 0);
    if (options_.documents) {
      const int64_t now = held_.segments.any() ? held_.segments.bounds.size(0) : n;
      held_ = to_device(batch, begin, n, device_, 2 * now + 64);
    }
  }
  try {
    recording.graph = capture_work([&] { forward_backward(held_, first, last); }, recorded_);
  } catch (const std::exception& error) {
    throw Error("the step could not be recorded as a CUDA graph; set train.cuda_graph: false ({})",
                error.what());
  }
  recorded_ = recording.graph.get();
  recording.graph->replay();
}

}  // namespace ceiling
