#include "train/world.h"

#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "base/stop.h"
#include "base/version.h"
#include "data/loader.h"
#include "modules/ops/device.h"

namespace ceiling {

int64_t ranks_to_start(const RunConfig& config) {
  const auto environment = read_rank_environment();
  const auto wanted = config.parallel.ranks;
  if (environment) {
    if (wanted && *wanted != environment->size)
      throw Error("parallel.ranks: {} processes are wanted, {} has started {}; set auto", *wanted,
                  environment->launcher, environment->size);
    return 0;
  }
  return wanted.value_or(1) > 1 ? *wanted : 0;
}

World::World(const ParallelSection& config)
    : environment_(read_rank_environment()),
      timeout_s_(config.timeout ? config.timeout->seconds : 1e9) {
  if (environment_ && environment_->size == 1) environment_.reset();
  if (!environment_) {
    communicator_ = std::make_unique<SelfCommunicator>();
    return;
  }
  rendezvous_ = std::make_unique<Rendezvous>(*environment_, timeout_s_);
  peers_ = std::make_shared<Peers>(*environment_, *rendezvous_, timeout_s_);
  communicator_ = std::make_unique<CpuCommunicator>(peers_);
  saver_rendezvous_ = std::make_shared<Rendezvous>(rendezvous_->clone());
}

World::~World() = default;

void World::use(at::Device device) {
  if (peers_ && !device.is_cpu())
    communicator_ = make_nccl_communicator(peers_, device, timeout_s_);
}

void World::first_does(const std::string& what, const std::function<void()>& work) {
  if (first()) work();
  communicator_->barrier(what);
}

std::string World::from_first(const std::string& text, const std::string& what) {
  return communicator_->gather(text, what)[0];
}

void World::require_same_start(RunConfig& config) {
  const nlohmann::json mine = {{"ceiling", kVersion},
                               {"torch", kTorchVersion},
                               {"program", sha256_file("/proc/self/exe")},
                               {"config", resolved_yaml(config)}};
  const auto all = communicator_->gather(mine.dump(), "the comparison of configurations");
  const auto first = nlohmann::json::parse(all[0]),
             own = nlohmann::json::parse(all[static_cast<size_t>(rank())]);
  for (const char* key : {"ceiling", "torch", "program"})
    if (first.at(key) != own.at(key))
      throw Error(
          "rank {} runs another build than rank 0: {} is {} there and {} here; start all "
          "ranks with the same program",
          rank(), key, first.at(key).dump(), own.at(key).dump());
  if (first.at("config") == own.at("config")) return;
  const auto parsed = [](const nlohmann::json& start, const char* name) {
    return read_run_config(parse_config_text(start.at("config"), name));
  };
  RunConfig theirs = parsed(first, "(rank 0)"), ours = parsed(own, "(this rank)");
  const ConfigDifference changed = difference(theirs, ours);
  throw Error(
      "rank {} was started with another configuration than rank 0:\n{}{}Start all ranks with "
      "the same file and overrides",
      rank(), changes_text(changed.matters), changes_text(changed.free));
}

void World::require_same_data(const nlohmann::json& description) {
  const auto first = from_first(description.dump(), "the comparison of data");
  const std::string changes = data_changes(nlohmann::json::parse(first), description);
  if (!changes.empty())
    throw Error("rank {} sees other data than rank 0:\n{}Copy the same dataset to all hosts",
                rank(), changes);
}

namespace {

class StoreMeeting final : public SaveMeeting {
 public:
  StoreMeeting(std::shared_ptr<Rendezvous> rendezvous, std::shared_ptr<Peers> peers, int64_t n,
               double timeout_s)
      : rendezvous_(std::move(rendezvous)),
        peers_(std::move(peers)),
        prefix_("save/" + std::to_string(n) + "/"),
        timeout_s_(timeout_s) {}
  int64_t rank() const override { return peers_->rank(); }
  int64_t size() const override { return peers_->size(); }
  void tell(const std::string& key, const std::string& value) override {
    rendezvous_->set(prefix_ + key, value);
  }
  std::string hear(const std::string& key, int64_t from_rank) override {
    return rendezvous_->get_while(
        prefix_ + key, fmt::format("the checkpoint of rank {}", from_rank), timeout_s_, [&] {
          if (const int64_t lost = peers_->lost(); lost >= 0) peers_->throw_lost(lost, "saving");
        });
  }

 private:
  std::shared_ptr<Rendezvous> rendezvous_;
  std::shared_ptr<Peers> peers_;
  std::string prefix_;
  double timeout_s_;
};

}  // namespace

std::unique_ptr<SaveMeeting> World::save_meeting(int64_t n) {
  if (!peers_) return nullptr;
  return std::make_unique<StoreMeeting>(saver_rendezvous_, peers_, n, timeout_s_);
}

bool World::report_failure(const std::exception& error) {
  if (!rendezvous_) return false;
  try {
    // One rank tells, also where several fail at the same moment.
    const bool told =
        !rendezvous_->set_first("failed", fmt::format("rank {}: {}", rank(), error.what()));
    // The rendezvous goes with rank 0; the others look there before they end.
    if (first()) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    return told;
  } catch (const std::exception&) {
    return rank() > 1;  // the rendezvous has gone, and so has rank 0 that hosted it
  }
}

}  // namespace ceiling
