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

#include "data/recall.h"
#include "data/shard.h"

namespace ceiling {

struct MixturePart {
  std::string path;     // a dataset folder
  double weight = 1.0;  // share of samples, relative to the other parts
};

struct LoaderOptions {
  std::vector<MixturePart> parts;       // one or more, or none with `recall`
  std::optional<RecallOptions> recall;  // samples of a synthetic task, in place of `parts`
  Split split = Split::kTrain;
  // true: a new order per epoch, whole samples only, parts mixed by weight, without end.
  // false: stream order, every target once, part after part, one pass (evaluation).
  bool shuffle = true;
  uint64_t seed = 1;
  int64_t context = 0;          // T: tokens per sample
  bool cross_document = false;  // true: documents flow into each other, targets cross boundaries
  int64_t global_batch = 1;     // samples per step over all ranks
  int64_t first_position = 0;   // where to begin (resume)
  // Stop there: the last step may be short. Unset: never if shuffled, else after one pass.
  std::optional<int64_t> end_position;
  int64_t rank = 0, world_size = 1;
  int64_t prefetch = 2;       // steps read ahead
  double timeout_s = 300;     // a read that takes longer is an Error naming shard and rank
  bool interruptible = true;  // false: next() goes on waiting when asked to stop
  // Page-locked memory where a GPU copies from it; default: plain memory. Freed by the returned
  // owner. Called by the reader thread.
  std::function<std::shared_ptr<void>(size_t size_bytes)> allocate;
};

// This rank's samples of one step. Sample positions are split over ranks in contiguous, nearly
// equal runs; a rank may have none.
struct Batch {
  int64_t first_position = 0;  // global position of the first of this rank's samples
  int64_t n_samples = 0, context = 0;
  std::shared_ptr<void> memory;        // owns the three arrays, each [n_samples, context]
  const int32_t* tokens = nullptr;     // past the end of a short sample: 0
  const int32_t* targets = nullptr;    // next token, or -1 where none counts
  const int32_t* documents = nullptr;  // document index in the row, from 0; all 0 if cross_document
  int64_t n_targets = 0;               // targets that are not -1
  // Sum over samples of the first 64 bits of SHA-256(position u64, tokens u32...), little endian,
  // the last target included: summed over ranks it does not depend on the world size.
  uint64_t digest = 0;
  std::vector<int64_t> sample_ids;  // per sample: its index in the stream of its part
  double wait_s = 0;                // time next() waited for the reader thread
};

class Loader {
 public:
  // Error unless the parts exist, share one tokenizer and hold at least one sample each.
  explicit Loader(const LoaderOptions& options);
  ~Loader();
  // Empty at the end. Throws what went wrong in the reader thread, Interrupted if asked to stop
  // while waiting (unless not interruptible).
  std::optional<Batch> next();
  int64_t samples_per_epoch() const;  // of the first part; of one pass if not shuffled
  // Whether the split has anything to evaluate on: an imported dataset may lack `valid`.
  static bool has_split(const LoaderOptions& options, Split split);
  // With shuffle == false: samples that cover every target of every part once; the last of a part
  // may be short.
  static int64_t evaluation_samples(const LoaderOptions& options);
  // UTF-8 bytes per counted target over the whole split (bits per byte = nats / ln 2 / this); 0
  // where unknown.
  double text_bytes_per_token() const;
  // Over parts, weights, split, context, cross_document and order; not seed, batch, ranks or paths.
  std::string fingerprint() const;
  nlohmann::json describe() const;  // its readable form, with paths
  const TokenizerInfo& tokenizer() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What makes the samples of two describe()s others, a line each: "  parts/0/tokens: 67476 ->
// 34344". Empty if they are the same samples: a dataset may move.
std::string data_changes(const nlohmann::json& before, const nlohmann::json& now);

}  // namespace ceiling
