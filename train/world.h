// The processes that train together: how they are started, find each other, and make sure that they
// are about to do the same.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "checkpoints/store.h"
#include "parallel/communicator.h"
#include "parallel/rank_environment.h"
#include "parallel/rendezvous.h"
#include "train/run_config.h"

namespace ceiling {

// How many ranks this process has to start itself: 0 if it is a rank already, or alone.
int64_t ranks_to_start(const RunConfig& config);

class World {
 public:
  // Alone, or one of several as the environment says; waits for the others then.
  explicit World(const ParallelSection& config);
  ~World();

  int64_t rank() const { return environment_ ? environment_->rank : 0; }
  int64_t size() const { return environment_ ? environment_->size : 1; }
  int64_t local_rank() const { return environment_ ? environment_->local_rank : 0; }
  int64_t local_size() const { return environment_ ? environment_->local_size : 1; }
  bool first() const { return rank() == 0; }

  // Collectives on tensors of `device` from here on: on a GPU by NCCL.
  void use(at::Device device);
  Communicator& communicator() { return *communicator_; }

  // Rank 0 does `work` while the others wait; where it fails they stop too.
  void first_does(const std::string& what, const std::function<void()>& work);
  // Rank 0's text, on every rank.
  std::string from_first(const std::string& text, const std::string& what);
  // Error, on the first rank that differs, unless all ranks have the same program, versions and
  // configuration, or the same data.
  void require_same_start(RunConfig& config);
  void require_same_data(const nlohmann::json& description);

  // Of the n-th save; null where this process saves alone.
  std::unique_ptr<SaveMeeting> save_meeting(int64_t n);

  // Leaves word why this rank stops, for the others; to be called with what a rank throws. True if
  // the user need not be told: another rank has told already.
  bool report_failure(const std::exception& error);

 private:
  std::optional<RankEnvironment> environment_;
  std::unique_ptr<Rendezvous> rendezvous_;
  std::shared_ptr<Rendezvous> saver_rendezvous_;  // of the thread that saves
  std::shared_ptr<Peers> peers_;
  std::unique_ptr<Communicator> communicator_;
  double timeout_s_;
};

}  // namespace ceiling
