// The checkpoints of one run: RUN/checkpoints/step-00001000/, each whole or not there at all.
// The format is described in docs/checkpoint-format.md.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "checkpoints/checkpoint.h"
#include "checkpoints/optimizer_shards.h"

namespace ceiling {

// What stays after a save: the newest `keep_last`, multiples of `keep_every` (0: none; such a
// checkpoint stays for ever), and the one with the lowest validation loss.
struct Retention {
  int64_t keep_last = 2, keep_every = 0;
  bool keep_best = false;
};

struct CheckpointContent {
  int64_t step = 0;
  std::vector<NamedTensor> weights;  // masters by parameter name
  std::vector<NamedTensor> flat;     // optimizer buffers: this rank's range, 1-D
  ShardRange range;                  // of `flat`; n_flat 0: one rank, everything
  std::string layout_hash;           // of the flat buffers
  // The store itself reads the numbers loss_nats, valid_nats and valid_step (all optional).
  nlohmann::json state;
  std::vector<std::pair<std::string, std::string>> files;  // further files: name, content
  Retention retention;
};

// How the ranks that save one checkpoint together exchange words. Used by the thread that saves.
class SaveMeeting {
 public:
  virtual ~SaveMeeting() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  virtual void tell(const std::string& key, const std::string& value) = 0;
  // Waits for the word; Error if the rank that should give it is gone or silent.
  virtual std::string hear(const std::string& key, int64_t from_rank) = 0;
};

struct CheckpointInfo {
  std::string name, path;
  int64_t step = 0;
  std::string problem;  // empty: complete (sizes and state were checked, not all hashes)
  std::string created;  // UTC
  int64_t size_bytes = 0;
  bool permanent = false, best = false;
  std::optional<double> loss_nats, valid_nats;
};

class CheckpointStore {
 public:
  explicit CheckpointStore(std::string folder);  // created by the first save
  const std::string& folder() const { return folder_; }
  // One checkpoint by its own folder, whichever run it belongs to.
  static Checkpoint open(const std::string& path) { return Checkpoint(path); }

  std::vector<CheckpointInfo> list() const;  // by step
  // The newest checkpoint of which every hash is right, walking back; `on_skip(name, why)` hears of
  // those that are not. Nothing if there is no checkpoint at all, Error if there are, but none is
  // good: starting anew over them would be a loss.
  std::optional<Checkpoint> latest_valid(
      const std::function<void(const std::string&, const std::string&)>& on_skip) const;

  // Writes a checkpoint, then removes what retention does not keep. On failure: an Error with path
  // and bytes, no trace of the new checkpoint, the earlier ones untouched. With several ranks all
  // must call it: each writes its own optimizer shard into a folder that all can reach, rank 0 the
  // rest.
  void save(const CheckpointContent& content, SaveMeeting* meeting = nullptr);

  // What saves that were killed have left. Only for the process that alone may save here.
  void remove_abandoned() const;
  // Disk that checkpoints of `n_flat` fp32 parameters will still take, one being written included.
  double bytes_needed(int64_t n_flat, int64_t keep_last) const;

 private:
  void save_first_rank(const CheckpointContent& content, const ShardRange& range,
                       SaveMeeting* meeting);
  void remove_unkept(const Retention& retention) const;
  std::string path_of(int64_t step) const { return folder_ + "/" + checkpoint_name(step); }
  std::string folder_;
};

}  // namespace ceiling
