// Several ranks that train one model on different samples: gradients are summed over ranks while
// the backward pass runs, and with ZeRO-1 each rank updates its own part of the weights, which is
// gathered while the next forward pass runs. One rank: nothing happens.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "checkpoints/store.h"
#include "modules/lm.h"
#include "parallel/communicator.h"
#include "parallel/shard_layout.h"
#include "train/parameter_store.h"

namespace ceiling {

// The cut of `slots` for this rank. zero 0 (and one rank): each owns everything. A bucket holds
// whole layers, `bucket_elements` or more.
ShardLayout cut_for_ranks(const ParameterStore::Slots& slots, const Communicator& world,
                          int64_t zero, int64_t bucket_elements);

class DataParallel final : public PassObserver {
 public:
  DataParallel(Communicator& world, ParameterStore& store, LanguageModel& model,
               int64_t bucket_elements);
  ~DataParallel() override;

  // Around a micro-step's work. `first`: the weights are gathered before each layer reads its own.
  // `last`: gradients are summed over ranks as they become complete. What these queue on a GPU may
  // be recorded as a part of a graph.
  void begin(bool first, bool last);
  void end();
  void before_forward(int64_t layer) override;
  void after_backward(int64_t layer) override;

  // Sum of squares of the gradients of all ranks' sum, this rank's share of it: added over ranks in
  // the case of ZeRO-1. A float64 scalar on the device.
  at::Tensor squared_norm() const;
  bool norm_is_shared() const { return sharded_; }  // each rank has a share of it, not all

  // Before anything but a micro-step reads the weights: gathers them, if an update has changed
  // them.
  void gather_weights();
  void weights_changed() { stale_ = sharded_; }
  // Zeroes what the update left in the gradients.
  void clear_gradients();
  // What this rank has to save: rank 0 all weights, each rank its part of the moments. All ranks
  // must call it.
  void write_to(CheckpointContent& content);
  // Weights and this rank's part of the moments, whatever the number of ranks that saved them.
  void read_from(const Checkpoint& checkpoint);
  // Equal on all ranks as long as their weights are equal bit for bit.
  std::string weights_fingerprint() const;

 private:
  struct Bucket {
    FlatRange range;
    int64_t first_layer, ready_layer;  // first used by, complete after
    bool tail;
  };
  at::Tensor gather_masters();  // in host memory, [n_flat]: on rank 0, undefined elsewhere
  void reduce(const Bucket& bucket);
  void gather(const Bucket& bucket);
  // Queues `work` behind what is queued now, on the stream of communication.
  template <class Work>
  void aside(const Work& work);

  Communicator& world_;
  ParameterStore& store_;
  LanguageModel& model_;
  bool sharded_;
  bool stale_ = false;
  std::vector<Bucket> buckets_;        // by range; the tail last
  std::optional<c10::Stream> stream_;  // on a GPU
  bool first_ = false, last_ = false;
  std::vector<bool> reduced_, waited_;
  std::vector<c10::Event> gathered_;  // per bucket
};

}  // namespace ceiling
