// The sample at a global position: which part, which window of its stream, and the arrays a model
// is fed with.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/mixture.h"
#include "data/order.h"
#include "data/shard.h"

namespace ceiling {

class Samples {
 public:
  // Error as Loader's constructor.
  explicit Samples(const LoaderOptions& options);

  struct Place {
    size_t part;
    int64_t sample;  // window [sample * context, sample * context + context] of the part's stream
  };
  Place place(int64_t position);

  // Rows of `context` elements to fill.
  struct Row {
    int32_t *tokens, *targets, *documents;
  };
  struct Read {
    int64_t n_targets;
    uint64_t digest;
  };
  Read read(int64_t position, const Place& place, const Row& row);

  // Path of the shard in which the sample begins. May be called while another thread is in read().
  std::string shard_of(const Place& place) const;
  int64_t per_epoch(size_t part) const { return parts_[part].n_samples; }
  int64_t per_pass() const;  // of all parts
  double text_bytes_per_token() const;
  nlohmann::json describe() const;
  std::string fingerprint() const;
  const TokenizerInfo& tokenizer() const {
    return recall_ ? recall_tokenizer_ : parts_[0].reader->tokenizer();
  }

 private:
  struct Part {
    std::unique_ptr<DatasetReader> reader;  // none for a synthetic task
    int64_t n_tokens = 0, n_samples = 0;
    int64_t epoch = -1;  // that `order` is for
    std::optional<EpochOrder> order;
  };
  Read read_recall(int64_t position, const Place& place, const Row& row);

  const LoaderOptions options_;
  std::optional<RecallSamples> recall_;  // in place of readers; there is one part then
  TokenizerInfo recall_tokenizer_;
  std::vector<Part> parts_;
  Mixture mixture_;
  std::vector<uint32_t> window_;
};

}  // namespace ceiling
