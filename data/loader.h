// Batches for training and evaluation, read ahead by one thread. The sample at global position p is
// a pure function of (data, seed, p); world size, micro-batch and prefetch depth cannot change what
// is seen.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/shard.h"

namespace ceiling {

struct MixturePart {
  std::string path;     // a dataset folder
  double weight = 1.0;  // share of samples, relative to the other parts
};

struct LoaderOptions {
  std::vector<MixturePart> parts;  // one or more
  Split split = Split::kTrain;
  bool shuffle = true;  // false: samples in stream order (evaluation)
  uint64_t seed = 1;
  int64_t context = 0;          // T: tokens per sample
  bool cross_document = false;  // true: documents flow into each other, targets cross boundaries
  int64_t global_batch = 1;     // samples per step over all ranks
  int64_t first_position = 0;   // where to begin (resume)
  std::optional<int64_t>
      end_position;  // stop there: the last step may be short; unset: run for ever (epochs)
  int64_t rank = 0, world_size = 1;
  int64_t prefetch = 2;    // steps read ahead
  double timeout_s = 300;  // a read that takes longer is an Error naming shard and rank
  // Page-locked memory where a GPU copies from it; default: plain memory. Freed by the returned
  // owner.
  std::function<std::shared_ptr<void>(size_t size_bytes)> allocate;
};

// This rank's samples of one step. Sample positions are split over ranks in contiguous, nearly
// equal runs.
struct Batch {
  int64_t first_position = 0;  // global position of the first of this rank's samples
  int64_t n_samples = 0, context = 0;
  std::shared_ptr<void> memory;      // owns the three arrays
  const int32_t* tokens = nullptr;   // [n_samples, context]
  const int32_t* targets = nullptr;  // [n_samples, context]: next token, or -1 where none counts
  const int32_t* documents =
      nullptr;  // [n_samples, context]: document index in the row, from 0; all 0 if cross_document
  int64_t n_targets = 0;  // targets that are not -1
  uint64_t digest = 0;    // sum over samples of a 64-bit hash of (position, tokens): world-size
                          // independent when summed
  std::vector<int64_t> sample_ids;  // per sample: index of the sample in its part's epoch order
  double wait_s = 0;                // time next() waited for the reader thread
};

class Loader {
 public:
  explicit Loader(const LoaderOptions& options);
  ~Loader();
  std::optional<Batch> next();        // empty at end_position
  int64_t samples_per_epoch() const;  // of the first part; of the whole split for one part
  // With shuffle == false: samples that cover every target of every part once; the last of a part
  // may be short.
  static int64_t evaluation_samples(const LoaderOptions& options);
  // UTF-8 bytes per counted target over the whole split (bits per byte = nats / ln 2 / this); 0
  // where unknown.
  double text_bytes_per_token() const;
  std::string fingerprint()
      const;  // over parts, weights, split, context, cross_document; not seed, batch or ranks
  nlohmann::json describe()
      const;  // the readable form of the fingerprint: resume prints its difference
  const TokenizerInfo& tokenizer() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ceiling
