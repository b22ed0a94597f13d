#include "train/trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <c10/core/StreamGuard.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"
#include "base/stop.h"
#include "base/text.h"
#include "base/version.h"
#include "checkpoints/saver.h"
#include "checkpoints/store.h"
#include "modules/ops/device.h"
#include "modules/ops/grad_norm/grad_norm.h"
#include "parallel/launcher.h"
#include "train/auto_micro_batch.h"
#include "train/consumed_log.h"
#include "train/data_parallel.h"
#include "train/load_model.h"
#include "train/logging.h"
#include "train/memory.h"
#include "train/metrics.h"
#include "train/micro_step.h"
#include "train/progress.h"
#include "train/recall_probe.h"
#include "train/run_evaluation.h"
#include "train/run_lock.h"
#include "train/schedule.h"
#include "train/selftest.h"
#include "train/setup.h"
#include "train/spike.h"
#include "train/step_agreement.h"
#include "train/world.h"

namespace ceiling {

namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

class Trainer {
 public:
  // `world` must outlive it.
  Trainer(RunConfig config, World& world);
  int run();

 private:
  void resume();
  void report_start();
  bool take_step();  // false where the data ends
  void run_micro_batches(const Batch& batch);
  StepReports agree(const Batch& batch);
  bool update_parameters(const StepReports& reports);
  double most_targets() const {
    return static_cast<double>(config_.train.global_batch * config_.data.context);
  }
  [[noreturn]] void stop_at_nonfinite(double loss, double norm, const StepReports& reports);
  // Whether any rank was asked to stop; all ranks must ask.
  bool stop_requested();
  bool out_of_time() const;
  void check_weights_are_equal();
  void log_step(double loss, double lr, double wait_s);
  bool lacks_evaluation();
  void evaluate_and_sample();
  void save(bool last);
  nlohmann::json state_json();
  double now_training_s() const { return progress_.train_s + session_train_s_; }

  RunConfig config_;
  World& world_;
  std::string dir_;
  at::Device device_;
  std::optional<c10::StreamGuard> stream_;
  at::ScalarType compute_;
  int64_t steps_;
  int64_t micro_batch_;
  std::optional<RunLock> lock_;  // of rank 0
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<ParameterStore> store_;
  std::vector<AdamwGroup> groups_;
  Schedule schedule_;
  SpikeDetector spikes_;
  std::unique_ptr<CheckpointStore> checkpoints_;
  std::unique_ptr<CheckpointSaver> saver_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<DataParallel> ranks_;
  std::unique_ptr<MicroStep> micro_step_;
  std::unique_ptr<Metrics> metrics_;       // of rank 0
  std::unique_ptr<ConsumedLog> consumed_;  // of rank 0
  StatusLine status_;
  Peak peak_;
  Progress progress_;
  nlohmann::json data_description_;
  nlohmann::json init_from_;  // null: random weights
  int64_t saved_step_ = -1;
  int stop_signal_ = 0;      // agreed: some rank was asked to stop
  bool time_is_up_ = false;  // agreed
  double start_s_ = now_s();

  // Since the last log line.
  double interval_train_s_ = 0, interval_wait_s_ = 0;
  int64_t interval_tokens_ = 0, interval_steps_ = 0;
  double session_train_s_ = 0;
  int64_t session_steps_ = 0;
  double step_loss_ = 0, step_norm_ = 0;
};

Trainer::Trainer(RunConfig config, World& world)
    : config_(std::move(config)),
      world_(world),
      dir_(config_.run.dir),
      device_(setup_device(config_, world.local_rank(), world.local_size())),
      stream_(own_stream(device_)),
      compute_(compute_dtype(config_.train.precision, device_)),
      steps_(config_.total_steps()),
      micro_batch_(micro_batch(config_, device_, world.size())),
      spikes_(config_.train.spike.window, config_.train.spike.threshold),
      status_(world.first() ? config_.log.progress : "off") {
  world_.require_same_start(config_);
  world_.use(device_);
  world_.first_does("preparing the data", [&] {
    require_writable_folder(dir_, "the run folder");
    lock_.emplace(dir_);
    log_to_file(dir_ + "/log.txt");
    ensure_data(config_);
  });
  if (!world_.first()) log_to_file(dir_ + "/log.txt");
  LoaderOptions data =
      loader_options(config_, Split::kTrain, device_, world_.rank(), world_.size());
  tokenizer_ = data.recall ? ids_only_tokenizer(Loader(data).tokenizer(), config_.data.task)
                           : dataset_tokenizer(DatasetReader(data.parts[0].path));
  require_probes(config_.eval.recall, {config_.data.context}, tokenizer_->text_ids());
  model_ = build_model(config_, tokenizer_->info().vocab_size);
  checkpoints_ = std::make_unique<CheckpointStore>(dir_ + "/checkpoints");
  resume();
  data.first_position = progress_.step * config_.train.global_batch;
  loader_ = std::make_unique<Loader>(data);
  MicroStepOptions options{.micro_batch = micro_batch_,
                           .documents = !data.cross_document,
                           .scale = 1.0 / most_targets(),
                           .z_loss = config_.train.z_loss,
                           .recompute = recompute_of(config_.train),
                           .graph = config_.train.cuda_graph};
  // Otherwise the config has it, or the checkpoint: another choice would change rounding.
  if (!config_.train.micro_batch && progress_.step == 0 && device_.is_cuda()) {
    const int64_t most = (config_.train.global_batch + world_.size() - 1) / world_.size();
    micro_batch_ = options.micro_batch = largest_micro_batch(
        *model_, store_->grad, options, config_.data.context, most, world_.communicator());
    spdlog::info("micro-batch: {} sequences, the largest that fits", micro_batch_);
  }
  micro_step_ = std::make_unique<MicroStep>(*model_, device_, options,
                                            world_.size() > 1 ? ranks_.get() : nullptr);
}

// Continues from the newest valid checkpoint of this folder, if any; refuses if config or data
// changed in a way that matters.
void Trainer::resume() {
  // Rank 0 looks at every byte; the others open what it found.
  std::optional<Checkpoint> found;
  if (world_.first())
    found = checkpoints_->latest_valid([](const std::string& name, const std::string& why) {
      spdlog::warn("{}: skipped, {}", name, why);
    });
  const std::string newest =
      world_.from_first(found ? found->path() : "", "the choice of a checkpoint");
  if (!world_.first() && !newest.empty()) found.emplace(newest, Verify::kSizes);
  const std::string config_file = dir_ + "/config.yaml";
  LoaderOptions data = loader_options(config_, Split::kTrain, device_);
  const Loader description(data);
  data_description_ = description.describe();
  world_.require_same_data(data_description_);
  nlohmann::json state;
  if (found) {
    state = found->state();
    if (state.contains("imported_from"))
      throw Error(
          "{}: holds an imported model and no run; to train it further, set train.init_from to "
          "this folder and run.dir to another one",
          dir_);
    RunConfig before = read_run_config(load_config_file(found->path() + "/config.yaml"));
    const ConfigDifference changed = difference(before, config_);
    if (!changed.matters.empty())
      throw Error(
          "{}: this folder holds a run with another configuration (checkpoint {}):\n{}"
          "Set run.dir to another folder to start anew, or restore the values to continue.",
          dir_, found->name(), changes_text(changed.matters));
    if (!changed.free.empty())
      spdlog::info("changed since the run was started:\n{}", changes_text(changed.free));
    const std::string other_data = data_changes(state.at("data"), data_description_);
    if (!other_data.empty())
      throw Error(
          "{}: the data is not what the run was trained on (checkpoint {}):\n{}Restore the dataset "
          "to continue, or set run.dir to another folder to start anew.",
          data.recall ? "data.task" : config_.data.path, found->name(), other_data);
    // A choice made by `auto` stays: another one would change rounding.
    if (config_.train.precision == "auto") compute_ = compute_dtype(state.at("precision"), device_);
    if (!config_.train.micro_batch) micro_batch_ = state.at("micro_batch");
  }
  const int64_t bucket_elements = config_.parallel.bucket_mib * (1 << 20) / 4;
  store_ = std::make_unique<ParameterStore>(
      *model_, device_, compute_, static_cast<uint64_t>(config_.run.seed), /*with_optimizer=*/true,
      cut_for_ranks(ParameterStore::lay_out(*model_), world_.communicator(), config_.parallel.zero,
                    bucket_elements));
  ranks_ = std::make_unique<DataParallel>(world_.communicator(), *store_, *model_, bucket_elements);
  groups_ = store_->groups(config_.train.weight_decay);
  const TrainSection& t = config_.train;
  schedule_ = {.shape = t.schedule,
               .peak = t.lr,
               .low = t.lr * t.min_lr_ratio,
               .warmup_steps = t.warmup_steps,
               .decay_steps = std::llround(t.decay_fraction * static_cast<double>(steps_)),
               .steps = steps_};
  if (found) {
    ranks_->read_from(*found);
    progress_ = progress_from(state);
    saved_step_ = progress_.step;
    spikes_.load(state.at("spike"));
    init_from_ = state.value("init_from", nlohmann::json());
    const int64_t n_ranks = state.at("world_size");
    spdlog::info("resuming from {} at step {}{}{}", found->name(), progress_.step,
                 n_ranks == world_.size()
                     ? ""
                     : fmt::format(", which {} wrote",
                                   n_ranks == 1 ? "one process" : fmt::format("{} ranks", n_ranks)),
                 t.init_from.empty() ? "" : "; train.init_from is not read again");
  } else {
    if (!t.init_from.empty()) {
      init_from_ = load_initial_weights(t.init_from, config_.model, tokenizer_->info(), *store_);
      spdlog::info("weights from {}", init_from_.at("path").get<std::string>());
    }
    if (world_.first()) fs::remove(dir_ + "/metrics.jsonl");
  }
  if (world_.first()) {
    write_file_atomic(config_file, resolved_yaml(config_));
    metrics_ = std::make_unique<Metrics>(dir_, progress_.step, config_.log.tensorboard);
    consumed_ = std::make_unique<ConsumedLog>(dir_, progress_.step);
    checkpoints_->remove_abandoned();
  }
  saver_ = std::make_unique<CheckpointSaver>(*checkpoints_, config_.checkpoint.async,
                                             [this](int64_t n) { return world_.save_meeting(n); });
}

void Trainer::report_start() {
  peak_ = peak_of(device_, compute_);
  if (!world_.first()) return;
  std::vector<DescriptionRow> rows =
      describe_run(config_, *model_, device_, compute_, peak_, world_.size(), micro_batch_);
  std::string amount;
  if (config_.recall()) {
    amount = fmt::format("task {}, {} samples", config_.data.task,
                         format_thousands(loader_->samples_per_epoch()));
  } else {
    const SplitSummary split =
        DatasetReader(loader_options(config_, Split::kTrain, device_).parts[0].path)
            .summary(Split::kTrain);
    amount = fmt::format("{} tokens in {} documents", format_thousands(split.n_tokens),
                         format_thousands(split.n_documents));
  }
  rows.push_back(
      {"data", fmt::format("{}, fingerprint {}", amount, loader_->fingerprint().substr(0, 16))});
  spdlog::info("{}\n{}", progress_.step > 0 ? "continuing" : "starting", description_text(rows));
  for (const std::string& remark : config_.remarks()) spdlog::warn("{}", remark);
  const double needed = checkpoints_->bytes_needed(store_->n_flat(), config_.checkpoint.keep_last);
  const auto free = static_cast<double>(free_bytes(dir_));
  if (needed > free)
    spdlog::warn("{}: {} are free, checkpoints need about {}; a save may fail", dir_,
                 format_bytes(free), format_bytes(needed));
}

int Trainer::run() {
  if (progress_.step >= steps_) {
    if (lacks_evaluation()) evaluate_and_sample();
    spdlog::info(
        "{}: the run is finished ({} of {} steps); raise train.steps to go on, or set another "
        "run.dir",
        dir_, progress_.step, steps_);
    return kFinished;
  }
  report_start();
  require_selftest(device_);
  if (progress_.step > 0 && metrics_)
    metrics_->event("resume", progress_.step,
                    {{"data_hash", progress_.data_chain}, {"world_size", world_.size()}});
  const auto evaluate_unless_stopped = [&] {
    try {
      evaluate_and_sample();
    } catch (const Interrupted&) {  // the evaluation is given up, the steps are not
    }
  };
  if (lacks_evaluation()) evaluate_unless_stopped();
  stop_requested();  // during the start
  while (progress_.step < steps_ && !stop_signal_ && !time_is_up_) {
    const double step_start = now_s();
    if (!take_step()) break;
    const double step_s = now_s() - step_start;
    interval_train_s_ += step_s, session_train_s_ += step_s;
    const bool last = progress_.step == steps_;
    if (progress_.step % config_.train.log_every == 0 || last || session_steps_ == 1)
      log_step(step_loss_, schedule_.at(progress_.step), interval_wait_s_);
    const auto due = [&](const std::optional<int64_t>& every) {
      return every && progress_.step % *every == 0;
    };
    if (due(config_.parallel.check_every)) check_weights_are_equal();
    if (due(config_.eval.every) || (last && config_.eval.every)) {
      evaluate_unless_stopped();
      if (stop_requested()) break;
    }
    if (due(config_.checkpoint.every) && !last) save(false);
  }
  status_.clear();
  save(true);
  world_.communicator().barrier("the end");  // rank 0 has the others' parts, and all is durable
  if (stop_signal_) {
    spdlog::info("stopped by signal {} at step {}; run the same command to continue", stop_signal_,
                 progress_.step);
    return 128 + stop_signal_;
  }
  if (progress_.step < steps_) {
    spdlog::info("time limit reached at step {}; run the same command to continue", progress_.step);
    return kTimeLimitReached;
  }
  check_weights_are_equal();
  spdlog::info("finished: {} steps, {} tokens, {} of training; data hash {}", progress_.step,
               format_count(static_cast<double>(progress_.tokens)),
               format_duration(now_training_s()), progress_.data_chain.substr(0, 16));
  return kFinished;
}

// A request to stop gives up the evaluation that it meets, and the step is saved without it: true
// if that was so with the step that is resumed from.
bool Trainer::lacks_evaluation() {
  const LoaderOptions data = loader_options(config_, Split::kValid, device_);
  const int64_t step = progress_.step;
  const auto& every = config_.eval.every;
  if (!every || step == 0 || (step % *every != 0 && step < steps_) ||
      !Loader::has_split(data, Split::kValid))
    return false;
  const int64_t evaluated = metrics_ ? metrics_->evaluated_step() : 0;
  return world_.from_first(std::to_string(evaluated), "the last evaluation") !=
         std::to_string(step);
}

bool Trainer::stop_requested() {
  for (const auto& signal : world_.communicator().gather_numbers(
           {static_cast<double>(stop::requested())}, "the agreement to stop"))
    if (stop_signal_ == 0) stop_signal_ = static_cast<int>(signal[0]);
  return stop_signal_ != 0;
}

bool Trainer::out_of_time() const {
  if (!config_.train.time_limit) return false;
  // The final save takes about as long as the last one did.
  return now_s() - start_s_ + saver_->last_save_s() > config_.train.time_limit->seconds;
}

void Trainer::check_weights_are_equal() {
  if (world_.size() == 1) return;
  ranks_->gather_weights();
  const auto all =
      world_.communicator().gather(ranks_->weights_fingerprint(), "the check of weights");
  for (size_t rank = 1; rank < all.size(); ++rank)
    if (all[rank] != all[0])
      throw Error(
          "step {}: the weights of rank {} are not those of rank 0. A device or its memory may "
          "be faulty; the last checkpoint is at step {}",
          progress_.step, rank, saved_step_);
}

bool Trainer::take_step() {
  world_.communicator().set_where(fmt::format("step {}", progress_.step + 1));
  std::optional<Batch> batch;
  try {
    batch = loader_->next();
  } catch (const Interrupted& stopped) {  // while it waited for data: nothing has begun
    stop_signal_ = stopped.signal;
    return false;
  }
  if (!batch) return false;
  interval_wait_s_ += batch->wait_s;
  run_micro_batches(*batch);
  const StepReports reports = agree(*batch);
  update_parameters(reports);
  const StepReport total = reports.total();
  ++progress_.step;
  ++interval_steps_, ++session_steps_;
  const int64_t n_tokens = total.n_samples * batch->context;
  interval_tokens_ += n_tokens;
  progress_.tokens += n_tokens;
  progress_.n_targets += total.n_targets;
  progress_.data_chain =
      Sha256().update(progress_.data_chain).update(&total.digest, sizeof total.digest).hex();
  if (consumed_) consumed_->step(progress_.step, reports.ranks());
  stop_signal_ = total.signal;
  time_is_up_ = total.out_of_time;
  status_.show(fmt::format("step {}/{} | loss {:.4f} | grad {:.3f}", progress_.step, steps_,
                           step_loss_, step_norm_));
  return true;
}

// Gradients of mean loss over all targets of the global batch, whatever the micro-batch: every
// token weighs the same. The micro-steps divide by the most targets that a batch can have; what is
// missing to the true number follows in the update.
void Trainer::run_micro_batches(const Batch& batch) {
  micro_step_->reset_total();
  int64_t begin = 0;
  do {  // once, even without samples: the other ranks wait for this one's gradients
    const int64_t n = std::min(micro_batch_, batch.n_samples - begin);
    micro_step_->run(batch, begin, n, /*first=*/begin == 0, /*last=*/begin + n == batch.n_samples);
    begin += n;
  } while (begin < batch.n_samples);
}

StepReports Trainer::agree(const Batch& batch) {
  // The one time that the host waits for the device.
  const at::Tensor sums = at::stack({micro_step_->total(), ranks_->squared_norm()}).cpu();
  world_.communicator().check();
  StepReport mine;
  mine.loss_sum = sums[0].item<double>();
  mine.squared_norm = sums[1].item<double>();
  mine.n_targets = batch.n_targets;
  mine.first_position = batch.first_position, mine.n_samples = batch.n_samples;
  mine.digest = batch.digest;
  mine.signal = stop::requested();
  mine.out_of_time = out_of_time();
  return StepReports::exchange(world_.communicator(), mine);
}

// Clipping, spike policy, AdamW. False if the step was skipped: weights, moments and Adam's step
// stay as they were. Every rank decides on the same numbers, so all decide alike.
bool Trainer::update_parameters(const StepReports& reports) {
  at::NoGradGuard no_grad;
  const StepReport total = reports.total();
  const double correction =
      most_targets() / static_cast<double>(std::max<int64_t>(total.n_targets, 1));
  const double loss = correction * total.loss_sum;
  step_loss_ = loss;
  step_norm_ = correction * std::sqrt(ranks_->norm_is_shared() ? total.squared_norm
                                                               : reports.ranks()[0].squared_norm);
  if (!std::isfinite(loss) || !std::isfinite(step_norm_))
    stop_at_nonfinite(loss, step_norm_, reports);
  if (config_.train.spike.policy == "skip") {
    if (const auto z = spikes_.observe(loss, step_norm_)) {
      const StepReport& worst = reports.ranks()[static_cast<size_t>(reports.worst_rank())];
      if (world_.first())
        spdlog::warn(
            "step {}: loss {:.4f}, gradient norm {:.3f} are {:.1f} standard deviations above the "
            "last {} steps; update skipped. Highest loss: {}",
            progress_.step + 1, loss, step_norm_, *z, config_.train.spike.window,
            reports.worst_samples());
      if (metrics_)
        metrics_->event("skip", progress_.step + 1,
                        {{"loss_nats", loss},
                         {"grad_norm", step_norm_},
                         {"z", *z},
                         {"rank", reports.worst_rank()},
                         {"first_sample", worst.first_position},
                         {"last_sample", worst.first_position + worst.n_samples - 1}});
      store_->grad.zero_();
      return false;
    }
  }
  const double clip = config_.train.clip;
  const double scale = clip > 0 && step_norm_ > clip ? clip / step_norm_ : 1.0;
  store_->update(groups_, {.lr = schedule_.at(progress_.step + 1),
                           .beta1 = config_.train.beta1,
                           .beta2 = config_.train.beta2,
                           .eps = config_.train.eps,
                           .step = ++progress_.optimizer_step,
                           .grad_scale = scale * correction});
  ranks_->clear_gradients();
  ranks_->weights_changed();
  return true;
}

void Trainer::stop_at_nonfinite(double loss, double norm, const StepReports& reports) {
  std::string mine = store_->first_nonfinite_text("weight", store_->master);
  if (mine.empty()) mine = store_->first_nonfinite_text("gradient of", store_->grad);
  std::string culprit = "the loss itself; all weights and gradients are finite";
  const auto all = world_.communicator().gather(mine, "the search for what is not finite");
  for (auto text = all.rbegin(); text != all.rend(); ++text)
    if (!text->empty()) culprit = *text;
  saver_->wait();
  throw Diverged(
      "step {}: loss {}, gradient norm {}: not finite. First bad tensor: {}. Look at {}. Nothing "
      "was "
      "updated; the last checkpoint is at step {}. Lower train.lr, or set train.spike.policy: skip",
      progress_.step + 1, loss, norm, culprit, reports.worst_samples(), saved_step_);
}

void Trainer::log_step(double loss, double lr, double wait_s) {
  if (!metrics_) {
    interval_train_s_ = interval_wait_s_ = 0;
    interval_tokens_ = interval_steps_ = 0;
    return;
  }
  StepMetrics m;
  m.step = progress_.step, m.steps = steps_;
  m.tokens = progress_.tokens, m.n_targets = progress_.n_targets;
  m.loss_nats = loss, m.grad_norm = step_norm_, m.lr = lr;
  m.tokens_per_s = static_cast<double>(interval_tokens_) / interval_train_s_;
  m.mfu = utilisation(peak_,
                      m.tokens_per_s * 3 * model_->flops_per_token(config_.data.context) /
                          static_cast<double>(world_.size()),
                      device_, compute_);
  m.memory_bytes = memory_bytes(device_);
  m.data_wait_ms = 1e3 * wait_s / static_cast<double>(interval_steps_);
  m.eta_s = static_cast<double>(steps_ - progress_.step) * interval_train_s_ /
            static_cast<double>(interval_steps_);
  m.data_hash = progress_.data_chain;
  metrics_->step(m);
  interval_train_s_ = interval_wait_s_ = 0;
  interval_tokens_ = interval_steps_ = 0;
}

void Trainer::evaluate_and_sample() {
  ranks_->gather_weights();
  const RunEvaluation evaluation{config_, *model_,      *tokenizer_, world_,
                                 device_, micro_batch_, status_,     metrics_.get()};
  const auto result = evaluation.run(progress_.step);
  if (!result) return;
  progress_.valid_nats = result->nats, progress_.valid_step = progress_.step;
  if (progress_.best_nats == 0 || result->nats < progress_.best_nats)
    progress_.best_nats = result->nats;
}

nlohmann::json Trainer::state_json() {
  nlohmann::json state = to_json(progress_);
  state.update({{"position", progress_.step * config_.train.global_batch},
                {"data", data_description_},
                {"loss_nats", step_loss_},
                {"spike", spikes_.save()},
                {"init_from", init_from_},
                {"precision", precision_name(compute_)},
                {"micro_batch", micro_batch_},
                {"world_size", world_.size()},
                {"tokenizer", tokenizer_json(tokenizer_->info())},
                {"model", model_json(config_.model, config_.data.bos)},
                {"versions", {{"ceiling", kVersion}, {"torch", kTorchVersion}}}});
  return state;
}

void Trainer::save(bool last) {
  if (progress_.step == 0 || progress_.step == saved_step_) {
    saver_->wait();
    return;
  }
  if (consumed_) consumed_->flush();
  progress_.train_s = now_training_s(), session_train_s_ = 0;
  CheckpointContent content;
  content.step = progress_.step;
  ranks_->write_to(content);
  content.state = state_json();
  content.files = {{"config.yaml", resolved_yaml(config_)}};
  if (!tokenizer_->model_file().empty())
    content.files.emplace_back("tokenizer.model", tokenizer_->model_file());
  content.retention = {.keep_last = config_.checkpoint.keep_last,
                       .keep_every = config_.checkpoint.keep_every.value_or(0),
                       .keep_best = config_.checkpoint.keep_best};
  saver_->save(std::move(content));
  saved_step_ = progress_.step;
  if (last) saver_->wait();
  if (metrics_)
    metrics_->event("checkpoint", progress_.step, {{"snapshot_s", saver_->last_snapshot_s()}});
}

int train(RunConfig config) {
  if (const int64_t n_ranks = ranks_to_start(config)) return launch_ranks(n_ranks);
  std::unique_ptr<World> world;
  try {
    world = std::make_unique<World>(config.parallel);
    if (!world->first()) speak_from_warnings_up(world->rank());
    return Trainer(std::move(config), *world).run();
  } catch (const Interrupted& stopped) {
    if (world) world->report_failure(stopped);
    throw;
  } catch (const Error& error) {
    if (dynamic_cast<const PeerLost*>(&error) && stop::requested())
      throw Interrupted(stop::requested());  // as the other rank was, perhaps before they had met
    if (!world || world->size() == 1) throw;
    if (world->report_failure(error)) return kStoppedByAnotherRank;
    const std::string message = fmt::format("rank {}: {}", world->rank(), error.what());
    if (dynamic_cast<const Diverged*>(&error)) throw Diverged(message);
    throw Error(message);
  }
}

}  // namespace ceiling
