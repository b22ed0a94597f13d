#include "data/samples.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"

namespace ceiling {

namespace {

const LoaderOptions& checked(const LoaderOptions& o) {
  const auto in_range = [](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
      throw Error("loader: {} is {}, must be from {} to {}", name, value, low, high);
  };
  constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
  if (o.parts.empty() && !o.recall) throw Error("loader: there is no dataset to read");
  in_range("context", o.context, 1, kMaxInt);
  in_range("global_batch", o.global_batch, 1, kMaxInt);
  in_range("world_size", o.world_size, 1, kMaxInt);
  in_range("rank", o.rank, 0, o.world_size - 1);
  in_range("prefetch", o.prefetch, 1, kMaxInt);
  in_range("first_position", o.first_position, 0, std::numeric_limits<int64_t>::max() / 2);
  if (o.end_position)
    in_range("end_position", *o.end_position, o.first_position,
             std::numeric_limits<int64_t>::max() / 2);
  return o;
}

std::vector<double> weights_of(const LoaderOptions& options) {
  if (options.recall) return {1};
  std::vector<double> weights;
  for (const MixturePart& part : options.parts) weights.push_back(part.weight);
  return weights;
}

uint64_t sample_digest(int64_t position, const std::vector<uint32_t>& tokens) {
  const auto bytes =
      Sha256().update(&position, sizeof position).update(tokens.data(), tokens.size() * 4).digest();
  uint64_t first = 0;
  std::memcpy(&first, bytes.data(), sizeof first);
  return first;
}

}  // namespace

Samples::Samples(const LoaderOptions& options)
    : options_(checked(options)), mixture_(weights_of(options)) {
  if (options.recall) {
    recall_.emplace(*options.recall, options.context, options.seed, options.split);
    const RecallOptions& task = recall_->options();
    const std::string name = kTaskPrefix + task.task;
    recall_tokenizer_ = {.name = name, .sha256 = sha256_hex(name), .vocab_size = task.vocab_size};
    Part part;
    part.n_samples = options.split == Split::kTrain ? task.n_train : task.n_test;
    parts_.push_back(std::move(part));
    return;
  }
  const int64_t needed = options.shuffle ? options.context + 1 : 2;
  for (const MixturePart& wanted : options.parts) {
    Part part;
    part.reader = std::make_unique<DatasetReader>(wanted.path);
    part.n_tokens = part.reader->summary(options.split).n_tokens;
    if (part.n_tokens < needed)
      throw Error(
          "{}: split {} has {} tokens, at least {} are needed (context {} + 1): use more text or "
          "a smaller data.context",
          wanted.path, split_name(options.split), part.n_tokens, needed, needed - 1);
    // Neighbouring samples share a token: the last target of one is the first input of the next.
    part.n_samples = (part.n_tokens - 1) / options.context;
    if (!options.shuffle && part.n_samples * options.context < part.n_tokens - 1) ++part.n_samples;
    parts_.push_back(std::move(part));
    const TokenizerInfo &ours = tokenizer(), &theirs = parts_.back().reader->tokenizer();
    if (!(ours == theirs))
      throw Error(
          "{}: tokenizer is '{}' (sha256 {}, {} ids), {} has '{}' ({}, {} ids); one run needs one "
          "tokenizer: prepare one of them again",
          wanted.path, theirs.name, theirs.sha256.substr(0, 12), theirs.vocab_size,
          options.parts[0].path, ours.name, ours.sha256.substr(0, 12), ours.vocab_size);
  }
}

int64_t Samples::per_pass() const {
  int64_t sum = 0;
  for (const Part& part : parts_) sum += part.n_samples;
  return sum;
}

Samples::Place Samples::place(int64_t position) {
  if (!options_.shuffle) {
    int64_t rest = position % per_pass();
    size_t part = 0;
    while (rest >= parts_[part].n_samples) rest -= parts_[part++].n_samples;
    return {part, rest};
  }
  const Mixture::Place turn = mixture_.at(position);
  Part& part = parts_[static_cast<size_t>(turn.part)];
  const int64_t epoch = turn.index / part.n_samples;
  if (epoch != part.epoch) {
    part.order.emplace(static_cast<uint64_t>(part.n_samples), options_.seed,
                       static_cast<uint64_t>(epoch), static_cast<uint64_t>(turn.part));
    part.epoch = epoch;
  }
  const uint64_t sample = (*part.order)[static_cast<uint64_t>(turn.index % part.n_samples)];
  return {static_cast<size_t>(turn.part), static_cast<int64_t>(sample)};
}

Samples::Read Samples::read(int64_t position, const Place& place, const Row& row) {
  if (recall_) return read_recall(position, place, row);
  Part& part = parts_[place.part];
  const int64_t context = options_.context, begin = place.sample * context;
  const int64_t n = std::min(context + 1, part.n_tokens - begin);  // tokens in the window
  window_.resize(static_cast<size_t>(n));
  part.reader->read_tokens(options_.split, begin, window_);

  const int64_t n_inputs = std::min(n, context);
  std::copy_n(window_.begin(), n_inputs, row.tokens);
  std::fill(row.tokens + n_inputs, row.tokens + context, 0);
  std::copy_n(window_.begin() + 1, n - 1, row.targets);
  std::fill(row.targets + n - 1, row.targets + context, -1);
  int64_t n_targets = n - 1;
  std::fill_n(row.documents, context, 0);
  if (!options_.cross_document) {
    // A document that starts at t is not to be predicted from the one before it.
    int32_t document = 0;
    int64_t from = 0;
    for (const int64_t start : part.reader->document_starts(options_.split, begin + 1, begin + n)) {
      const int64_t t = start - begin;
      std::fill(row.documents + from, row.documents + t, document++);
      from = t;
      row.targets[t - 1] = -1;
      --n_targets;
    }
    std::fill(row.documents + from, row.documents + context, document);
  }
  return {n_targets, sample_digest(position, window_)};
}

Samples::Read Samples::read_recall(int64_t position, const Place& place, const Row& row) {
  const auto context = static_cast<size_t>(options_.context);
  recall_->read(place.sample, {row.tokens, context}, {row.targets, context});
  std::fill_n(row.documents, context, 0);
  window_.assign(row.tokens, row.tokens + context);
  window_.insert(window_.end(), row.targets, row.targets + context);
  const auto n_unasked = std::count(row.targets, row.targets + context, -1);
  return {options_.context - n_unasked, sample_digest(position, window_)};
}

std::string Samples::shard_of(const Place& place) const {
  if (recall_) return "task " + recall_->options().task;
  return parts_[place.part].reader->shard_at(options_.split, place.sample * options_.context);
}

double Samples::text_bytes_per_token() const {
  if (recall_) return 0;
  double bytes = 0, targets = 0;
  for (const Part& part : parts_) {
    const SplitSummary sum = part.reader->summary(options_.split);
    if (sum.n_text_bytes == 0) return 0;
    bytes += static_cast<double>(sum.n_text_bytes);
    targets += static_cast<double>(sum.n_tokens - (options_.cross_document ? 1 : sum.n_documents));
  }
  return targets > 0 ? bytes / targets : 0;
}

nlohmann::json Samples::describe() const {
  const std::string order =
      options_.shuffle ? fmt::format("shuffled, version {}", kOrderVersion) : "stream";
  if (recall_) {
    nlohmann::json json = recall_->describe();
    json["order"] = order;
    return json;
  }
  nlohmann::json parts = nlohmann::json::array();
  for (size_t i = 0; i < parts_.size(); ++i) {
    const DatasetReader& reader = *parts_[i].reader;
    const SplitSummary sum = reader.summary(options_.split);
    parts.push_back({{"path", reader.path()},
                     {"sha256", reader.fingerprint()},
                     {"share", fmt::format("{}/{}", mixture_.count(static_cast<int64_t>(i)),
                                           mixture_.period())},
                     {"tokens", sum.n_tokens},
                     {"documents", sum.n_documents}});
  }
  const TokenizerInfo& t = tokenizer();
  return {{"parts", parts},
          {"tokenizer", {{"name", t.name}, {"sha256", t.sha256}, {"vocab_size", t.vocab_size}}},
          {"split", split_name(options_.split)},
          {"context", options_.context},
          {"cross_document", options_.cross_document},
          {"order", order}};
}

std::string Samples::fingerprint() const {
  nlohmann::json json = describe();
  if (!recall_)
    for (auto& part : json["parts"]) part.erase("path");  // a dataset may move
  return sha256_hex(json.dump());
}

}  // namespace ceiling
