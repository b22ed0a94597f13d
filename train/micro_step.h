// Forward and backward of one micro-batch. On a GPU the work is recorded once as a CUDA graph and
// then replayed: a small model's step is otherwise bound by the time to launch its kernels.
#pragma once
#include <array>
#include <memory>

#include "data/loader.h"
#include "modules/lm.h"
#include "modules/ops/device.h"
#include "train/data_parallel.h"
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
  // `model` must outlive it; its parameters' memory must stay where it is. `ranks`: communicates
  // beside the work, may be null.
  MicroStep(LanguageModel& model, at::Device device, const MicroStepOptions& options,
            DataParallel* ranks = nullptr);
  // Samples [begin, begin + n) of the batch: gradients are added to the parameters', the loss to
  // total(). The batch must live until the device has caught up. `first`, `last`: of the step, as
  // DataParallel wants to know; n may be 0 where other ranks have samples.
  void run(const Batch& batch, int64_t begin, int64_t n, bool first = true, bool last = true);
  const at::Tensor& total() const { return total_; }  // float64 scalar on the device
  void reset_total() { total_.zero_(); }

 private:
  // One recording for each part that communication plays: none, at the start, at the end, both.
  struct Recording {
    int64_t runs = 0;
    std::unique_ptr<CapturedWork> graph;
  };
  void forward_backward(const DeviceBatch& batch, bool first, bool last);

  LanguageModel& model_;
  at::Device device_;
  MicroStepOptions options_;
  at::Tensor total_;
  DataParallel* ranks_;
  DeviceBatch held_;  // what the graphs read
  std::array<Recording, 4> recordings_;
  const CapturedWork* recorded_ = nullptr;  // one of them, whose memory the others share
};

}  // namespace ceiling
