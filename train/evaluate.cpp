#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/stop.h"
#include "train/device_batch.h"

namespace ceiling {

double EvaluationResult::perplexity() const { return std::exp(nats); }

namespace {

// Targets whose logits are held at once: 2 GiB with a vocabulary of 128 Ki.
constexpr int64_t kTargetsAtOnce = 4096;

// Which of the targets (those that are not -1, in order) get the largest logit; on the CPU.
at::Tensor are_right(LanguageModel& model, const at::Tensor& hidden, const at::Tensor& targets) {
  const at::Tensor where = targets.flatten().ge(0).nonzero().squeeze(1);
  const at::Tensor asked = hidden.flatten(0, 1).index_select(0, where);
  std::vector<at::Tensor> answers = {at::empty({0}, asked.options().dtype(at::kLong))};
  for (int64_t first = 0; first < asked.size(0); first += kTargetsAtOnce) {
    const int64_t n = std::min(kTargetsAtOnce, asked.size(0) - first);
    answers.push_back(model.logits(asked.narrow(0, first, n).unsqueeze(0)).argmax(-1).squeeze(0));
  }
  return at::cat(answers).eq(targets.flatten().index_select(0, where)).cpu();
}

// 0 of position 0, 1 of 1, 2 of 2-3, 3 of 4-7, ...
size_t bin_of(int64_t position) { return std::bit_width(static_cast<uint64_t>(position)); }

// The scores of one rank's samples, and of all ranks' at the end.
class Scores {
 public:
  Scores(int64_t n_samples, int64_t context, bool accuracy)
      : n_samples_(n_samples),
        context_(context),
        accuracy_(accuracy),
        bins_(bin_of(context - 1) + 1) {}

  void add(LanguageModel& model, const Batch& batch, at::Device device) {
    const DeviceBatch on_device = to_device(batch, 0, batch.n_samples, device);
    const at::Tensor hidden = model.hidden(on_device.tokens, on_device.segments, nullptr);
    const at::Tensor losses =
        model.loss(hidden, on_device.targets, {.scale = 1, .z_loss = 0, .per_token = true})
            .token_loss.to(at::kDouble)
            .cpu()
            .contiguous();
    at::Tensor right;
    if (accuracy_) right = are_right(model, hidden, on_device.targets);
    const double* loss = losses.const_data_ptr<double>();
    const bool* is_right = accuracy_ ? right.const_data_ptr<bool>() : nullptr;
    // Per-token losses in fp32, added up in fp64 within each sample, and sample after sample: the
    // sum does not depend on how samples were grouped.
    for (int64_t i = 0; i < batch.n_samples; ++i) {
      SampleScore sample;
      for (int64_t t = 0; t < context_; ++t) {
        if (batch.targets[i * context_ + t] < 0) continue;
        const SampleScore target = {loss[i * context_ + t], 1, is_right ? *is_right++ : 0};
        add_to(sample, target), add_to(bins_[bin_of(t)], target);
      }
      add_to(sum_, sample);
      mine_.push_back({batch.first_position + i, sample});
    }
  }

  // Of all ranks so far, as means; the batches of all ranks are equally many. Throws Interrupted on
  // every rank if one was asked to stop.
  EvaluationResult agree(Communicator& world) const {
    SampleScore total;
    int64_t n_samples = 0;
    int signal = 0;
    for (const auto& numbers : world.gather_numbers(
             {sum_.nats, static_cast<double>(sum_.n_targets), static_cast<double>(sum_.n_right),
              static_cast<double>(mine_.size()), static_cast<double>(stop::requested())},
             "evaluation")) {
      add_to(total,
             {numbers[0], static_cast<int64_t>(numbers[1]), static_cast<int64_t>(numbers[2])});
      n_samples += static_cast<int64_t>(numbers[3]);
      if (signal == 0) signal = static_cast<int>(numbers[4]);
    }
    if (signal != 0) throw Interrupted(signal);
    return means(total, n_samples);
  }

  // Of all ranks, with each sample and by position.
  EvaluationResult finish(Communicator& world) const {
    std::vector<SampleScore> samples(static_cast<size_t>(n_samples_));
    for (const auto& [position, score] : gather(world, mine_, "evaluation, samples"))
      samples.at(static_cast<size_t>(position)) = score;
    SampleScore total;
    for (const SampleScore& sample : samples) add_to(total, sample);
    EvaluationResult result = means(total, n_samples_);
    result.samples = std::move(samples);
    const std::vector<SampleScore> all = gather(world, bins_, "evaluation, positions");
    for (size_t bin = 0; bin < bins_.size(); ++bin) {
      SampleScore sum;
      for (size_t i = bin; i < all.size(); i += bins_.size()) add_to(sum, all[i]);
      if (sum.n_targets == 0) continue;
      const EvaluationResult mean = means(sum, n_samples_);
      const int64_t first = bin == 0 ? 0 : int64_t{1} << (bin - 1);
      result.by_position.push_back({.first = first,
                                    .last = std::min(std::max<int64_t>(2 * first, 1), context_) - 1,
                                    .n_targets = sum.n_targets,
                                    .nats = mean.nats,
                                    .accuracy = mean.accuracy,
                                    .bits_per_byte = {}});
    }
    return result;
  }

 private:
  struct Placed {
    int64_t position = 0;
    SampleScore score;
  };

  static void add_to(SampleScore& sum, const SampleScore& more) {
    sum.nats += more.nats, sum.n_targets += more.n_targets, sum.n_right += more.n_right;
  }

  EvaluationResult means(const SampleScore& sum, int64_t n_samples) const {
    EvaluationResult result;
    result.n_targets = sum.n_targets, result.n_samples = n_samples;
    if (sum.n_targets == 0) return result;
    const auto n = static_cast<double>(sum.n_targets);
    result.nats = sum.nats / n;
    if (accuracy_) result.accuracy = static_cast<double>(sum.n_right) / n;
    return result;
  }

  // Every rank's items, in rank order.
  template <class Item>
  static std::vector<Item> gather(Communicator& world, const std::vector<Item>& mine,
                                  const char* what) {
    std::vector<Item> all;
    const std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Item));
    for (const std::string& theirs : world.gather(bytes, what)) {
      const size_t n = theirs.size() / sizeof(Item), before = all.size();
      all.resize(before + n);
      std::memcpy(static_cast<void*>(all.data() + before), theirs.data(), n * sizeof(Item));
    }
    return all;
  }

  int64_t n_samples_, context_;
  bool accuracy_;
  std::vector<SampleScore> bins_;
  std::vector<Placed> mine_;
  SampleScore sum_;
};

double bits(double nats, double bytes_per_token) { return nats / std::log(2.0) / bytes_per_token; }

}  // namespace

EvaluationResult evaluate(LanguageModel& model, const BatchSource& batches,
                          const EvaluationProgress& on_progress, at::Device device,
                          Communicator& world) {
  at::NoGradGuard no_grad;
  const auto start = std::chrono::steady_clock::now();
  Scores scores(batches.n_samples, batches.context, batches.accuracy);
  while (const auto batch = batches.next()) {
    if (batch->n_samples > 0)  // the tail may leave nothing for this rank
      scores.add(model, *batch, device);
    const EvaluationResult so_far = scores.agree(world);
    if (on_progress)
      on_progress(static_cast<double>(so_far.n_samples) / static_cast<double>(batches.n_samples),
                  so_far);
  }
  EvaluationResult result = scores.finish(world);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

EvaluationResult evaluate(LanguageModel& model, LoaderOptions loader_options,
                          const EvaluationOptions& options, at::Device device,
                          Communicator* several) {
  SelfCommunicator alone;
  loader_options.shuffle = false;
  loader_options.first_position = 0;
  loader_options.global_batch = options.micro_batch * loader_options.world_size;
  int64_t n_samples = Loader::evaluation_samples(loader_options);
  if (options.max_samples > 0) n_samples = std::min(n_samples, options.max_samples);
  loader_options.end_position = n_samples;
  Loader loader(loader_options);
  EvaluationResult result = evaluate(model,
                                     {.next = [&] { return loader.next(); },
                                      .n_samples = n_samples,
                                      .context = loader_options.context,
                                      .accuracy = loader_options.recall.has_value()},
                                     options.on_progress, device, several ? *several : alone);
  if (const double bytes_per_token = loader.text_bytes_per_token(); bytes_per_token > 0) {
    result.bits_per_byte = bits(result.nats, bytes_per_token);
    for (PositionScore& at : result.by_position) at.bits_per_byte = bits(at.nats, bytes_per_token);
  }
  result.data_fingerprint = loader.fingerprint();
  result.tokenizer_sha256 = loader.tokenizer().sha256;
  return result;
}

nlohmann::json to_json(const EvaluationResult& result) {
  nlohmann::json json = {{"loss_nats", result.nats},
                         {"perplexity", result.perplexity()},
                         {"bits_per_byte", result.bits_per_byte},
                         {"n_targets", result.n_targets},
                         {"n_samples", result.n_samples},
                         {"seconds", result.seconds},
                         {"data_fingerprint", result.data_fingerprint},
                         {"tokenizer_sha256", result.tokenizer_sha256},
                         {"by_position", nlohmann::json::array()},
                         {"sample_nats", nlohmann::json::array()},
                         {"sample_targets", nlohmann::json::array()}};
  if (result.accuracy)
    json["accuracy"] = *result.accuracy, json["sample_right"] = nlohmann::json::array();
  for (const PositionScore& at : result.by_position) {
    nlohmann::json& entry =
        json["by_position"].emplace_back(nlohmann::json{{"first", at.first},
                                                        {"last", at.last},
                                                        {"n_targets", at.n_targets},
                                                        {"loss_nats", at.nats}});
    if (at.accuracy) entry["accuracy"] = *at.accuracy;
    if (at.bits_per_byte) entry["bits_per_byte"] = *at.bits_per_byte;
  }
  for (const SampleScore& sample : result.samples) {
    json["sample_nats"].push_back(sample.nats);
    json["sample_targets"].push_back(sample.n_targets);
    if (result.accuracy) json["sample_right"].push_back(sample.n_right);
  }
  return json;
}

}  // namespace ceiling
