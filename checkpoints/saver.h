// Saves while training goes on: the tensors are copied to host memory (kept between saves, pinned
// for a GPU), then one thread writes them.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>

#include "checkpoints/store.h"

namespace ceiling {

class CheckpointSaver {
 public:
  using MakeMeeting = std::function<std::unique_ptr<SaveMeeting>(int64_t n)>;  // of the n-th save
  // The caller alone saves into `store` (it holds the run's lock): what killed saves left is
  // removed. asynchronous false: save() returns when the checkpoint is durable.
  CheckpointSaver(CheckpointStore& store, bool asynchronous);
  // One of several ranks that save together. Nothing is removed.
  CheckpointSaver(CheckpointStore& store, bool asynchronous, MakeMeeting meetings);
  ~CheckpointSaver();  // waits; a failure that nobody asked for is logged

  // Returns after the snapshot. Waits for the save before it, and throws if that one failed.
  void save(CheckpointContent content);
  void wait();  // until nothing is in flight; Error if the save failed

  double last_snapshot_s() const { return last_snapshot_s_; }  // training stood still for
  double last_save_s() const { return last_save_s_; }          // snapshot and writing

 private:
  void snapshot(CheckpointContent& content);
  CheckpointStore& store_;
  bool asynchronous_;
  MakeMeeting meetings_;
  int64_t n_saves_ = 0;
  at::Tensor host_;  // bytes of all tensors of a save
  std::atomic<double> last_snapshot_s_ = 0, last_save_s_ = 0;
  std::future<void> in_flight_;
};

}  // namespace ceiling
