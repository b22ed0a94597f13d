// Forward and backward of one micro-batch. On a GPU the work is recorded once as a CUDA graph and
// then replayed: a small model's step is otherwise bound by the time to launch its kernels.
#pragma once
#include <memory>

#include "data/loader.h"
#include "modules/lm.h"
#include "modules/ops/device.h"
#include "train/device_batch.h"

namespace ceiling {

struct MicroStepOptions {
  int64_t micro_batch = 0;       // samples of a full micro-batch
  bool documents = false;        // whether rows may hold several documents
  double scale = 1, z_loss = 0;  // of LossOptions
  Recompute recompute = Recompute::kNone;
  bool graph = false;
};

class MicroStep {
 public:
  // `model` must outlive it; its parameters' memory must stay where it is.
  MicroStep(LanguageModel& model, at::Device device, const MicroStepOptions& options);
  // Samples [first, first + n) of the batch: gradients are added to the parameters', the loss to
  // total(). The batch must live until the device has caught up.
  void run(const Batch& batch, int64_t first, int64_t n);
  const at::Tensor& total() const { return total_; }  // float64 scalar on the device
  void reset_total() { total_.zero_(); }

 private:
  void forward_backward(const DeviceBatch& batch);

  LanguageModel& model_;
  at::Device device_;
  MicroStepOptions options_;
  at::Tensor total_;
  DeviceBatch held_;  // what the graph reads
  int64_t runs_ = 0;
  std::unique_ptr<CapturedWork> graph_;
};

}  // namespace ceiling
