#include "train/trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <c10/core/StreamGuard.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>

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
#include "parallel/communicator.h"
#include "train/evaluate.h"
#include "train/load_model.h"
#include "train/logging.h"
#include "train/memory.h"
#include "train/metrics.h"
#include "train/micro_step.h"
#include "train/sampler.h"
#include "train/schedule.h"
#include "train/selftest.h"
#include "train/setup.h"
#include "train/spike.h"

namespace ceiling {

namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Held for the life of the process: two trainings in one folder would mix their checkpoints.
class RunLock {
 public:
  explicit RunLock(const std::string& run_dir) : file_(run_dir + "/.lock", "ab") {
    if (::flock(fileno(), LOCK_EX | LOCK_NB) != 0)
      throw Error(
          "{}: another ceiling is training in this folder; wait for it, or set another run.dir",
          run_dir);
  }

 private:
  int fileno() { return file_.descriptor(); }
  File file_;
};

// Everything a resume needs beside weights and moments; state.json of a checkpoint.
struct Progress {
  int64_t step = 0;            // optimizer steps taken (skipped ones included)
  int64_t optimizer_step = 0;  // Adam's t: skipped steps do not count
  int64_t tokens = 0, n_targets = 0;
  std::string data_chain = std::string(64, '0');  // running hash over all samples consumed
  double train_s = 0;                             // time in training steps, over all sessions
  double valid_nats = 0;                          // of the last evaluation; 0: none yet
  int64_t valid_step = 0;
  double best_nats = 0;
};

}  // namespace

class Trainer {
 public:
  explicit Trainer(RunConfig config);
  int run();

 private:
  void resume();
  void report_start();
  bool take_step();  // false where the data ends
  void run_micro_batches(const Batch& batch);
  bool update_parameters(const Batch& batch);
  double most_targets() const {
    return static_cast<double>(config_.train.global_batch * config_.data.context);
  }
  [[noreturn]] void stop_at_nonfinite(double loss, double norm, const Batch& batch);
  void log_step(double loss, double lr, double wait_s);
  void evaluate_and_sample();
  void save(bool last);
  nlohmann::json state_json();
  double now_training_s() const { return progress_.train_s + session_train_s_; }

  RunConfig config_;
  std::string dir_;
  SelfCommunicator world_;
  at::Device device_;
  std::optional<c10::StreamGuard> stream_;
  at::ScalarType compute_;
  int64_t steps_;
  int64_t micro_batch_;
  RunLock lock_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<ParameterStore> store_;
  std::vector<AdamwGroup> groups_;
  Schedule schedule_;
  SpikeDetector spikes_;
  std::unique_ptr<CheckpointStore> checkpoints_;
  std::unique_ptr<CheckpointSaver> saver_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<MicroStep> micro_step_;
  std::unique_ptr<Metrics> metrics_;
  StatusLine status_;
  Peak peak_;
  Progress progress_;
  nlohmann::json data_description_;
  nlohmann::json init_from_;  // null: random weights
  int64_t saved_step_ = -1;

  // Since the last log line.
  double interval_train_s_ = 0, interval_wait_s_ = 0;
  int64_t interval_tokens_ = 0, interval_steps_ = 0;
  double session_train_s_ = 0;
  int64_t session_steps_ = 0;
  double step_loss_ = 0, step_norm_ = 0;
};

Trainer::Trainer(RunConfig config)
    : config_(std::move(config)),
      dir_(config_.run.dir),
      device_(setup_device(config_)),
      stream_(own_stream(device_)),
      compute_(compute_dtype(config_.train.precision, device_)),
      steps_(config_.total_steps()),
      micro_batch_(micro_batch(config_, device_)),
      lock_((require_writable_folder(dir_, "the run folder"), dir_)),
      spikes_(config_.train.spike.window, config_.train.spike.threshold),
      status_(config_.log.progress) {
  log_to_file(dir_ + "/log.txt");
  ensure_data(config_);
  LoaderOptions data = loader_options(config_, Split::kTrain, device_);
  tokenizer_ = dataset_tokenizer(DatasetReader(data.parts[0].path));
  model_ = build_model(config_, tokenizer_->info().vocab_size);
  checkpoints_ = std::make_unique<CheckpointStore>(dir_ + "/checkpoints");
  resume();
  data.first_position = progress_.step * config_.train.global_batch;
  loader_ = std::make_unique<Loader>(data);
  micro_step_ = std::make_unique<MicroStep>(
      *model_, device_,
      MicroStepOptions{
          .micro_batch = micro_batch_,
          .documents = !data.cross_document,
          .scale = 1.0 / most_targets(),
          .z_loss = config_.train.z_loss,
          .recompute = config_.train.recompute == "block" ? Recompute::kBlock : Recompute::kNone,
          .graph = config_.train.cuda_graph});
}

// Continues from the newest valid checkpoint of this folder, if any; refuses if config or data
// changed in a way that matters.
void Trainer::resume() {
  const auto found =
      checkpoints_->latest_valid([](const std::string& name, const std::string& why) {
        spdlog::warn("{}: skipped, {}", name, why);
      });
  const std::string config_file = dir_ + "/config.yaml";
  LoaderOptions data = loader_options(config_, Split::kTrain, device_);
  const Loader description(data);
  data_description_ = description.describe();
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
          config_.data.path, found->name(), other_data);
    // A choice made by `auto` stays: another one would change rounding.
    if (config_.train.precision == "auto") compute_ = compute_dtype(state.at("precision"), device_);
    if (!config_.train.micro_batch) micro_batch_ = state.at("micro_batch");
  }
  store_ = std::make_unique<ParameterStore>(*model_, device_, compute_,
                                            static_cast<uint64_t>(config_.run.seed));
  groups_ = store_->groups(config_.train.weight_decay);
  const TrainSection& t = config_.train;
  schedule_ = {.shape = t.schedule,
               .peak = t.lr,
               .low = t.lr * t.min_lr_ratio,
               .warmup_steps = t.warmup_steps,
               .decay_steps = std::llround(t.decay_fraction * static_cast<double>(steps_)),
               .steps = steps_};
  if (found) {
    found->load_weights(store_->named_masters());
    store_->sync_compute();
    found->load_flat("m", store_->layout_hash(), store_->m);
    found->load_flat("v", store_->layout_hash(), store_->v);
    progress_.step = saved_step_ = state.at("step");
    progress_.optimizer_step = state.at("optimizer_step");
    progress_.tokens = state.at("tokens");
    progress_.n_targets = state.at("n_targets");
    progress_.data_chain = state.at("data_hash");
    progress_.train_s = state.at("train_s");
    progress_.valid_nats = state.at("valid_nats");
    progress_.valid_step = state.at("valid_step");
    progress_.best_nats = state.at("best_nats");
    spikes_.load(state.at("spike"));
    init_from_ = state.value("init_from", nlohmann::json());
    spdlog::info("resuming from {} at step {}{}", found->name(), progress_.step,
                 t.init_from.empty() ? "" : "; train.init_from is not read again");
  } else {
    if (!t.init_from.empty()) {
      init_from_ = load_initial_weights(t.init_from, config_.model, tokenizer_->info(), *store_);
      spdlog::info("weights from {}", init_from_.at("path").get<std::string>());
    }
    fs::remove(dir_ + "/metrics.jsonl");
  }
  write_file_atomic(config_file, resolved_yaml(config_));
  metrics_ = std::make_unique<Metrics>(dir_, progress_.step, config_.log.tensorboard);
  saver_ = std::make_unique<CheckpointSaver>(*checkpoints_, config_.checkpoint.async);
}

void Trainer::report_start() {
  peak_ = peak_of(device_, compute_);
  std::vector<DescriptionRow> rows = describe_run(config_, *model_, device_, compute_, peak_);
  const SplitSummary split =
      DatasetReader(loader_options(config_, Split::kTrain, device_).parts[0].path)
          .summary(Split::kTrain);
  rows.push_back(
      {"data",
       fmt::format("{} tokens in {} documents, fingerprint {}", format_thousands(split.n_tokens),
                   format_thousands(split.n_documents), loader_->fingerprint().substr(0, 16))});
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
    spdlog::info(
        "{}: the run is finished ({} of {} steps); raise train.steps to go on, or set another "
        "run.dir",
        dir_, progress_.step, steps_);
    return kFinished;
  }
  report_start();
  require_selftest(device_);
  if (progress_.step > 0)
    metrics_->event("resume", progress_.step, {{"data_hash", progress_.data_chain}});
  const double start = now_s();
  const double limit_s = config_.train.time_limit ? config_.train.time_limit->seconds : INFINITY;
  bool out_of_time = false;
  while (progress_.step < steps_ && !stop::requested()) {
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
    try {
      if (due(config_.eval.every) || (last && config_.eval.every)) evaluate_and_sample();
    } catch (const Interrupted&) {
      break;  // the evaluation is given up, the steps are not
    }
    if (due(config_.checkpoint.every) && !last) save(false);
    // The final save takes about as long as the last one did.
    out_of_time = now_s() - start + saver_->last_save_s() > limit_s;
    if (out_of_time && !last) break;
  }
  status_.clear();
  save(true);
  if (const int signal = stop::requested()) {
    spdlog::info("stopped by signal {} at step {}; run the same command to continue", signal,
                 progress_.step);
    return 128 + signal;
  }
  if (progress_.step < steps_) {
    spdlog::info("time limit reached at step {}; run the same command to continue", progress_.step);
    return kTimeLimitReached;
  }
  spdlog::info("finished: {} steps, {} tokens, {} of training; data hash {}", progress_.step,
               format_count(static_cast<double>(progress_.tokens)),
               format_duration(now_training_s()), progress_.data_chain.substr(0, 16));
  return kFinished;
}

bool Trainer::take_step() {
  const std::optional<Batch> batch = loader_->next();
  if (!batch) return false;
  interval_wait_s_ += batch->wait_s;
  run_micro_batches(*batch);
  update_parameters(*batch);
  ++progress_.step;
  ++interval_steps_, ++session_steps_;
  const int64_t n_tokens = batch->n_samples * batch->context;
  interval_tokens_ += n_tokens;
  progress_.tokens += n_tokens;
  progress_.n_targets += batch->n_targets;
  progress_.data_chain =
      Sha256().update(progress_.data_chain).update(&batch->digest, sizeof batch->digest).hex();
  status_.show(fmt::format("step {}/{} | loss {:.4f} | grad {:.3f}", progress_.step, steps_,
                           step_loss_, step_norm_));
  return true;
}

// Gradients of mean loss over all targets of the global batch, whatever the micro-batch: every
// token weighs the same. The micro-steps divide by the most targets that a batch can have; what is
// missing to the true number follows in the update.
void Trainer::run_micro_batches(const Batch& batch) {
  micro_step_->reset_total();
  for (int64_t first = 0; first < batch.n_samples; first += micro_batch_)
    micro_step_->run(batch, first, std::min(micro_batch_, batch.n_samples - first));
}

// Clipping, spike policy, AdamW. False if the step was skipped: weights, moments and Adam's step
// stay as they were.
bool Trainer::update_parameters(const Batch& batch) {
  at::NoGradGuard no_grad;
  // The one time that the host waits for the device.
  const at::Tensor sums = at::stack({micro_step_->total(), squared_norm(store_->grad)}).cpu();
  const double correction =
      most_targets() / static_cast<double>(std::max<int64_t>(batch.n_targets, 1));
  const double loss = correction * sums[0].item<double>();
  step_loss_ = loss;
  step_norm_ = correction * std::sqrt(sums[1].item<double>());
  if (!std::isfinite(loss) || !std::isfinite(step_norm_))
    stop_at_nonfinite(loss, step_norm_, batch);
  if (config_.train.spike.policy == "skip") {
    if (const auto z = spikes_.observe(loss, step_norm_)) {
      const auto [low, high] =
          std::pair(batch.first_position, batch.first_position + batch.n_samples - 1);
      spdlog::warn(
          "step {}: loss {:.4f}, gradient norm {:.3f} are {:.1f} standard deviations above the "
          "last {} steps; "
          "update skipped (rank {}, samples {} to {})",
          progress_.step + 1, loss, step_norm_, *z, config_.train.spike.window, world_.rank(), low,
          high);
      metrics_->event("skip", progress_.step + 1,
                      {{"loss_nats", loss},
                       {"grad_norm", step_norm_},
                       {"z", *z},
                       {"first_sample", low},
                       {"last_sample", high}});
      store_->grad.zero_();
      return false;
    }
  }
  const double clip = config_.train.clip;
  const double scale = clip > 0 && step_norm_ > clip ? clip / step_norm_ : 1.0;
  adamw(store_->master, store_->grad, store_->m, store_->v, store_->compute, groups_,
        {.lr = schedule_.at(progress_.step + 1),
         .beta1 = config_.train.beta1,
         .beta2 = config_.train.beta2,
         .eps = config_.train.eps,
         .step = ++progress_.optimizer_step,
         .grad_scale = scale * correction});
  return true;
}

void Trainer::stop_at_nonfinite(double loss, double norm, const Batch& batch) {
  std::string culprit = "the loss itself; all weights and gradients are finite";
  for (const auto& [what, buffer] :
       {std::pair{"weight", store_->master}, std::pair{"gradient of", store_->grad}}) {
    const auto index = first_nonfinite(buffer);
    if (!index) continue;
    const auto* slot = store_->find(*index);
    culprit = fmt::format("{} {}, element {}", what, slot ? slot->parameter->name : "(padding)",
                          slot ? *index - slot->offset : 0);
    break;
  }
  saver_->wait();
  throw Error(
      "step {}: loss {}, gradient norm {}: not finite. First bad tensor: {}. Samples {} to {}. "
      "Nothing was updated; the "
      "last checkpoint is at step {}. Lower train.lr, or set train.spike.policy: skip",
      progress_.step + 1, loss, norm, culprit, batch.first_position,
      batch.first_position + batch.n_samples - 1, saved_step_);
}

void Trainer::log_step(double loss, double lr, double wait_s) {
  StepMetrics m;
  m.step = progress_.step, m.steps = steps_;
  m.tokens = progress_.tokens, m.n_targets = progress_.n_targets;
  m.loss_nats = loss, m.grad_norm = step_norm_, m.lr = lr;
  m.tokens_per_s = static_cast<double>(interval_tokens_) / interval_train_s_;
  m.mfu =
      peak_.flops_per_s > 0
          ? m.tokens_per_s * 3 * model_->flops_per_token(config_.data.context) / peak_.flops_per_s
          : 0;
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
  LoaderOptions data = loader_options(config_, Split::kValid, device_);
  const bool has_valid = DatasetReader(data.parts[0].path).summary(Split::kValid).n_tokens > 0;
  if (has_valid) {
    const EvaluationResult result =
        evaluate(*model_, data,
                 {.micro_batch = config_.eval.batch.value_or(micro_batch_),
                  .max_samples = config_.eval.samples.value_or(0),
                  .on_progress =
                      [&](double share, const EvaluationResult&) {
                        status_.show(fmt::format("evaluating {:.0f} %", 100 * share));
                      }},
                 device_);
    progress_.valid_nats = result.nats, progress_.valid_step = progress_.step;
    if (progress_.best_nats == 0 || result.nats < progress_.best_nats)
      progress_.best_nats = result.nats;
    spdlog::info("valid at step {} | loss {:.4f} | ppl {:.2f}{} | {} targets | {}", progress_.step,
                 result.nats, result.perplexity(),
                 result.bits_per_byte > 0
                     ? fmt::format(" | {:.3f} bits per byte", result.bits_per_byte)
                     : "",
                 format_thousands(result.n_targets), format_duration(result.seconds));
    metrics_->event("valid", progress_.step,
                    {{"loss_nats", result.nats},
                     {"perplexity", result.perplexity()},
                     {"bits_per_byte", result.bits_per_byte},
                     {"n_targets", result.n_targets},
                     {"seconds", result.seconds}});
  }
  if (config_.eval.prompts.empty()) return;
  std::vector<std::vector<uint32_t>> prompts;
  for (const std::string& prompt : config_.eval.prompts)
    prompts.push_back(encode_prompt(*tokenizer_, prompt, config_.data.bos));
  const auto texts = generate(*model_, prompts, tokenizer_->info().eos,
                              {.temperature = config_.eval.temperature,
                               .top_k = config_.eval.top_k,
                               .top_p = config_.eval.top_p,
                               .seed = static_cast<uint64_t>(config_.eval.seed),
                               .max_tokens = config_.eval.sample_tokens},
                              device_);
  for (size_t i = 0; i < texts.size(); ++i) {
    int64_t replaced = 0;  // a sample may end within a character
    const std::string text = repair_utf8(tokenizer_->decode(texts[i].tokens), &replaced);
    spdlog::info("sample | {}{}", config_.eval.prompts[i], text);
    metrics_->event("sample", progress_.step,
                    {{"prompt", config_.eval.prompts[i]}, {"text", text}});
  }
}

nlohmann::json Trainer::state_json() {
  return {{"step", progress_.step},
          {"optimizer_step", progress_.optimizer_step},
          {"position", progress_.step * config_.train.global_batch},
          {"tokens", progress_.tokens},
          {"n_targets", progress_.n_targets},
          {"data_hash", progress_.data_chain},
          {"data", data_description_},
          {"train_s", now_training_s()},
          {"loss_nats", step_loss_},
          {"valid_nats", progress_.valid_nats},
          {"valid_step", progress_.valid_step},
          {"best_nats", progress_.best_nats},
          {"spike", spikes_.save()},
          {"init_from", init_from_},
          {"precision", precision_name(compute_)},
          {"micro_batch", micro_batch_},
          {"world_size", world_.size()},
          {"tokenizer", tokenizer_json(tokenizer_->info())},
          {"model", model_json(config_.model, config_.data.bos)},
          {"versions", {{"ceiling", kVersion}, {"torch", kTorchVersion}}}};
}

void Trainer::save(bool last) {
  if (progress_.step == 0 || progress_.step == saved_step_) {
    saver_->wait();
    return;
  }
  CheckpointContent content;
  content.step = progress_.step;
  content.weights = store_->named_masters();
  content.flat = {{"m", store_->m}, {"v", store_->v}};
  content.layout_hash = store_->layout_hash();
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
  metrics_->event("checkpoint", progress_.step, {{"snapshot_s", saver_->last_snapshot_s()}});
}

int train(RunConfig config) {
  if (config.parallel.ranks.value_or(1) != 1)
    throw Error(
        "parallel.ranks: {} is not possible, this version trains in one process; set 1 or auto",
        *config.parallel.ranks);
  return Trainer(std::move(config)).run();
}

}  // namespace ceiling
