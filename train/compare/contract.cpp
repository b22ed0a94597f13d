#include "train/compare/contract.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "checkpoints/store.h"
#include "data/loader.h"
#include "train/compare/run_record.h"
#include "train/consumed_log.h"
#include "train/setup.h"

namespace ceiling {

namespace {

// Keys that a resumed run may change but that may not differ within a comparison: how long, how
// judged, how rounded.
bool decides(const std::string& key) {
  static const std::set<std::string> kKeys = {
      "train.steps", "train.tokens", "train.micro_batch", "train.cuda_graph",
      "run.device",  "eval.samples", "data.path"};
  return kKeys.count(key) > 0;
}

std::vector<ConfigChange> broken(RunConfig& made, RunConfig& planned) {
  ConfigDifference changed = difference(made, planned);
  for (ConfigChange& change : changed.free)
    if (decides(change.key)) changed.matters.push_back(std::move(change));
  return changed.matters;
}

void require_config(const std::string& file, RunConfig& planned, const std::string& run) {
  if (!fs::exists(file)) return;
  RunConfig made = read_run_config(load_config_file(file));
  const auto changes = broken(made, planned);
  if (!changes.empty())
    throw Error(
        "{}: this run does not keep the comparison's contract; it has -> the comparison has:\n{}"
        "Restore the values, remove {} and {}.yaml to make the run again, or set compare.dir to "
        "another folder.",
        file, changes_text(changes), run, run);
}

void require_data(const std::string& file, const nlohmann::json& made, const nlohmann::json& now,
                  const std::string& path) {
  const std::string changes = data_changes(made, now);
  if (!changes.empty())
    throw Error(
        "{}: was trained on other data than {} holds now:\n{}Restore the dataset, or set "
        "compare.dir to another folder.",
        file, path, changes);
}

// What the checkpoints say of the data, once they are gone.
std::string data_file(const PlannedRun& run) { return run.dir + "/data.json"; }

}  // namespace

void require_planned(const Plan& plan, const std::vector<PlannedRun>& runs) {
  nlohmann::json data;  // of every run: it does not depend on the seed
  for (const PlannedRun& run : runs) {
    RunConfig planned = plan.config(run);
    require_config(run.config, planned, run.dir);
    require_config(run.dir + "/config.yaml", planned, run.dir);
    if (!fs::exists(run.dir)) continue;
    if (data.is_null())
      data = Loader(loader_options(planned, Split::kTrain, at::Device(at::kCPU))).describe();
    if (fs::exists(data_file(run))) {
      const auto made =
          nlohmann::json::parse(read_file(data_file(run)), nullptr, /*allow_exceptions=*/false);
      if (!made.is_object())
        throw Error("{}: is damaged; remove the folder, and the run is made again", data_file(run));
      require_data(data_file(run), made, data, planned.data.path);
    }
    if (!fs::exists(run.dir + "/checkpoints")) continue;
    for (const CheckpointInfo& info : CheckpointStore(run.dir + "/checkpoints").list()) {
      if (!info.problem.empty()) continue;
      require_config(info.path + "/config.yaml", planned, run.dir);
      const Checkpoint checkpoint(info.path, Verify::kSizes);
      require_data(info.path, checkpoint.state().at("data"), data, planned.data.path);
    }
  }
}

void drop_checkpoints(const PlannedRun& run) {
  const std::string folder = run.dir + "/checkpoints";
  if (!fs::exists(folder)) return;
  for (const CheckpointInfo& info : CheckpointStore(folder).list()) {
    if (!info.problem.empty()) continue;
    const Checkpoint checkpoint(info.path, Verify::kSizes);
    write_file_atomic(data_file(run), checkpoint.state().at("data").dump(1) + "\n");
    break;  // require_planned() has seen that all say the same
  }
  fs::remove_all(folder);
}

void require_same_samples(const std::vector<PlannedRun>& runs) {
  struct Longest {
    std::string run;
    std::vector<ConsumedStep> steps;
  };
  std::map<int64_t, Longest> by_seed;
  for (const PlannedRun& run : runs) {
    std::vector<ConsumedStep> steps = ConsumedLog::read(run.dir);
    if (static_cast<int64_t>(steps.size()) < run.steps && is_finished(run.dir, run.steps))
      throw Error(
          "{}/consumed.txt: tells the samples of {} of {} steps; without the others nothing shows "
          "that the run saw the same as the others did. Restore the file, or remove the folder, "
          "and the run is made again",
          run.dir, steps.size(), run.steps);
    Longest& longest = by_seed[run.seed];
    for (size_t i = 0; i < std::min(steps.size(), longest.steps.size()); ++i) {
      const ConsumedStep &a = steps[i], &b = longest.steps[i];
      if (a.digest != b.digest || a.first_position != b.first_position ||
          a.n_samples != b.n_samples || a.n_targets != b.n_targets)
        throw Error(
            "{} and {}: saw other samples at step {}, so they cannot be compared; remove the one "
            "that was made with other data and run the comparison again",
            run.dir, longest.run, a.step);
    }
    if (steps.size() > longest.steps.size()) longest = {run.dir, std::move(steps)};
  }
}

void require_same_evaluation(const std::vector<RunResult>& runs) {
  const RunResult* first = nullptr;
  for (const RunResult& run : runs) {
    if (!run.evaluation) continue;
    if (!first) first = &run;
    if (run.evaluation->sample_targets != first->evaluation->sample_targets ||
        run.evaluation->data_fingerprint != first->evaluation->data_fingerprint)
      throw Error(
          "{} and {}: were evaluated on other targets; remove their files in the folder `measured` "
          "and run the comparison again",
          first->name, run.name);
  }
}

std::vector<NamedValue> contract_text(const Comparison& comparison, const Plan& plan) {
  RunConfig config = comparison.recipe_with(plan.contenders().front().model);
  const CompareSection& compare = comparison.compare;
  const TrainSection& t = config.train;
  std::vector<NamedValue> rows;
  const auto row = [&](const char* name, std::string value) {
    rows.push_back({name, std::move(value)});
  };
  if (!config.recall() && !fs::exists(config.data.path + "/manifest.json")) {
    row("dataset", fmt::format("{}, to be prepared from {}", config.data.path, config.data.source));
    row("tokenizer", config.data.tokenizer);
  } else if (config.recall()) {
    const Loader loader(loader_options(config, Split::kTrain, at::Device(at::kCPU)));
    row("task", fmt::format("{}, {} training samples, fingerprint {}", config.data.task,
                            format_thousands(loader.samples_per_epoch()),
                            loader.fingerprint().substr(0, 16)));
  } else {
    const DatasetReader data(config.data.path);
    const TokenizerInfo& tokenizer = data.tokenizer();
    row("dataset", fmt::format("{}, {} training tokens, fingerprint {}", config.data.path,
                               format_thousands(data.summary(Split::kTrain).n_tokens),
                               data.fingerprint().substr(0, 16)));
    row("tokenizer",
        fmt::format("{}, {} ids, sha256 {}", tokenizer.name, format_thousands(tokenizer.vocab_size),
                    tokenizer.sha256.substr(0, 16)));
  }
  row("context", format_thousands(config.data.context) + " tokens, documents " +
                     (config.data.cross_document == "mask" ? "kept apart" : "joined"));
  row("global batch", fmt::format("{} sequences, {} tokens a step", t.global_batch,
                                  format_thousands(config.tokens_per_step())));
  row("tokens",
      fmt::format("{} in {} steps", format_thousands(config.tokens_per_step() * plan.steps()),
                  format_thousands(plan.steps())));
  row("order", fmt::format("decided by the seed: {} to {}; each run's samples are compared step by "
                           "step",
                           config.run.seed, config.run.seed + compare.seeds - 1));
  row("schedule",
      fmt::format("{}, {} warm-up steps, ends at {} of the peak", t.schedule, t.warmup_steps,
                  t.schedule == "constant" ? "1" : format_double(t.min_lr_ratio)));
  row("optimizer", fmt::format("AdamW, betas {} {}, eps {}, weight decay {}, clip {}",
                               format_double(t.beta1), format_double(t.beta2), format_double(t.eps),
                               format_double(t.weight_decay), format_double(t.clip)));
  row("precision", t.precision);
  std::vector<std::string> rates;
  for (const double lr : compare.lr) rates.push_back(format_double(lr));
  row("learning rates",
      fmt::format("{}, each once; then {} at the best", join(rates, ", "),
                  compare.seeds == 1 ? "one seed" : fmt::format("{} seeds", compare.seeds)));
  row("parameters", fmt::format("without embedding and head, within {:.1f} % of {}",
                                100 * compare.tolerance, compare.match_to));
  return rows;
}

}  // namespace ceiling
