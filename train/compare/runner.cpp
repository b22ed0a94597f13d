#include "train/compare/runner.h"

#include <spdlog/spdlog.h>
#include <sys/file.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/stop.h"
#include "base/text.h"
#include "modules/ops/device.h"
#include "train/compare/assemble.h"
#include "train/compare/contract.h"
#include "train/compare/jobs.h"
#include "train/compare/measure.h"
#include "train/compare/plan.h"
#include "train/compare/report.h"
#include "train/compare/run_record.h"
#include "train/recall_probe.h"
#include "train/run_lock.h"
#include "train/selftest.h"
#include "train/setup.h"
#include "train/trainer.h"

namespace ceiling {

namespace {

// A call that was killed leaves jobs that have been asked to stop; they hold its lock, too, until
// they have saved. Two at a time would write the same files.
void wait_for_jobs_of_an_earlier_call(const File& lock) {
  bool said = false;
  while (::flock(lock.descriptor(), LOCK_EX | LOCK_NB) != 0) {
    if (!said) spdlog::info("waiting until a job of an earlier call has saved and ended");
    said = true;
    stop::check();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

class Runner {
 public:
  Runner(const Comparison& comparison, std::string command)
      : comparison_(comparison), command_(std::move(command)), dir_(comparison.compare.dir) {}

  void run() {
    require_own_folder();
    require_writable_folder(dir_, "the folder of the comparison");
    const RunLock lock(dir_, "compare.dir");
    const File running(dir_ + "/.jobs.lock", "ab");
    wait_for_jobs_of_an_earlier_call(running);
    const RunConfig shared = shared_config();
    ensure_data(shared);
    require_probes_of(shared);
    const int64_t vocab_size = vocabulary(shared);
    const Plan plan(comparison_, match_contenders(comparison_, vocab_size));
    const Measurements measurements(comparison_, vocab_size);
    for (const MatchedContender& contender : plan.contenders())
      for (const char* folder : {"/runs/", "/measured/"})
        fs::create_directories(dir_ + folder + contender.name);
    spdlog::info("{}\n{}", comparison_.compare.title, comparison_text(comparison_, plan));
    require_planned(plan, plan.grid());
    device_ = pick_device(shared.run.device);
    jobs_ = {.at_once = comparison_.compare.jobs,
             .n_gpus = device_.is_cuda() ? n_devices() : 0,
             .kept_descriptor = running.descriptor()};
    note_device();
    require_selftest(device_);  // once, and not by all jobs at the same time

    for (const MatchedContender& contender : plan.contenders()) {
      std::vector<Job> missing = measurements.missing(contender);
      if (missing.empty()) continue;
      measurements.write_config(contender);
      run_jobs(std::move(missing), {.kept_descriptor = running.descriptor()});
    }
    train(plan, plan.grid());
    require_finished(plan.grid());
    const std::vector<PlannedRun> judged = judged_runs(plan, measurements);
    require_planned(plan, judged);
    train_and_evaluate(plan, judged);
    require_finished(judged);
    write(plan, measurements, judged);
    if (!comparison_.compare.keep_checkpoints)
      for (const auto& runs : {plan.grid(), judged})
        for (const PlannedRun& run : runs) drop_checkpoints(run);
  }

  void report() {
    const RunConfig shared = shared_config();
    const int64_t vocab_size = vocabulary(shared);
    const Plan plan(comparison_, match_contenders(comparison_, vocab_size));
    const Measurements measurements(comparison_, vocab_size);
    for (const MatchedContender& contender : plan.contenders())
      if (!measurements.missing(contender).empty())
        throw Error("{}: there is nothing to report yet: the speed of {} is not measured", dir_,
                    contender.name);
    write(plan, measurements, judged_runs(plan, measurements));
  }

 private:
  void require_own_folder() const {
    if (!fs::exists(dir_)) return;
    if (fs::is_directory(dir_)) {
      if (fs::is_empty(dir_)) return;
      for (const char* ours : {"/.jobs.lock", "/runs", "/measured"})
        if (fs::exists(dir_ + ours)) return;
    }
    throw Error("{}: compare.dir: {} is there and no folder of a comparison; set another",
                comparison_.path, dir_);
  }

  // Before anything trains, not when the first run is evaluated.
  void require_probes_of(const RunConfig& shared) const {
    if (shared.recall() || !comparison_.compare.recall) return;
    std::vector<int64_t> contexts = comparison_.compare.recall_contexts;
    if (contexts.empty()) contexts = {shared.data.context};
    try {
      require_probes(recall_probes(), contexts,
                     dataset_tokenizer(DatasetReader(shared.data.path))->text_ids());
    } catch (const Error& error) {
      throw Error("{}: {}; set compare.recall_contexts, or compare.recall: false for no probes",
                  comparison_.path, error.what());
    }
  }

  RunConfig shared_config() const {
    return comparison_.recipe_with(comparison_.contenders.front().model);
  }

  void write(const Plan& plan, const Measurements& measurements,
             const std::vector<PlannedRun>& judged) const {
    std::vector<PlannedRun> all = plan.grid();
    all.insert(all.end(), judged.begin(), judged.end());
    require_planned(plan, all);
    require_same_samples(all);
    ComparisonResults results = assemble_results(comparison_, plan, measurements, judged);
    results.command = command_;
    results.device = join(devices(), ", ");
    if (devices().size() > 1)
      results.marks.push_back("The runs were made on several devices (" + results.device +
                              "): speeds and times are not comparable.");
    require_same_evaluation(results.runs);
    check_results(results, dir_);
    write_file_atomic(dir_ + "/results.json", results_json(results).dump(1) + "\n");
    write_report(results, dir_);
    spdlog::info("{} runs; the report is {}/report.html", results.runs.size(), dir_);
  }

  std::vector<PlannedRun> judged_runs(const Plan& plan, const Measurements& measurements) const {
    std::vector<StepCost> costs;
    const auto tokens = static_cast<double>(shared_config().tokens_per_step());
    for (const MatchedContender& contender : plan.contenders())
      costs.push_back(
          {tokens * contender.training_flops_per_token,
           tokens / training_tokens_per_s(comparison_, measurements.training(contender))});
    std::vector<PlannedRun> judged;
    for (size_t i = 0; i < plan.contenders().size(); ++i) {
      const auto best = best_rate(plan, i);
      if (!best) {
        spdlog::warn("{}: diverged at every rate of the grid", plan.contenders()[i].name);
        continue;
      }
      for (PlannedRun& run : plan.judged(i, *best, costs)) judged.push_back(std::move(run));
    }
    return judged;
  }

  // Runs that have diverged before, or are finished, are left alone.
  void train(const Plan& plan, const std::vector<PlannedRun>& runs) {
    std::vector<Job> jobs;
    for (const PlannedRun& run : runs)
      if (!failure_of(run) && !is_finished(run.dir, run.steps)) jobs.push_back(training(plan, run));
    do_all(std::move(jobs), runs.size());
  }

  // Each run is evaluated as soon as it is trained. Of several that share a folder, the first.
  void train_and_evaluate(const Plan& plan, const std::vector<PlannedRun>& runs) {
    std::vector<Job> jobs;
    std::set<std::string> seen;
    for (const PlannedRun& run : runs) {
      if (!seen.insert(run.dir).second || failure_of(run)) continue;
      Job judge = evaluation(plan, run);
      const bool finished = is_finished(run.dir, run.steps);
      if (finished && has_output(judge)) continue;
      if (finished && has_checkpoint(run.dir, run.steps)) {
        jobs.push_back(std::move(judge));
        continue;
      }
      jobs.push_back(training(plan, run));
      jobs.back().then = std::make_shared<Job>(std::move(judge));
    }
    do_all(std::move(jobs), seen.size());
  }

  // A run that is at its end, by its checkpoint, trains no more.
  static void require_finished(const std::vector<PlannedRun>& runs) {
    for (const PlannedRun& run : runs)
      if (!failure_of(run) && !is_finished(run.dir, run.steps))
        throw Error(
            "{}/metrics.jsonl: lacks the run's last step ({}), though it has been trained; restore "
            "the file, or remove the folder, and the run is made again",
            run.dir, run.steps);
  }

  void do_all(std::vector<Job> jobs, size_t n_runs) {
    if (!jobs.empty()) spdlog::info("{} of {} runs to do", jobs.size(), n_runs);
    run_jobs(std::move(jobs), jobs_);
  }

  Job training(const Plan& plan, const PlannedRun& run) const {
    RunConfig config = plan.config(run);
    // An evaluation of an earlier run in this folder says nothing of the one that is made now.
    remove_output(run.evaluation);
    write_file_atomic(run.config, resolved_yaml(config));
    Job job;
    job.name = run.name;
    job.arguments = {"train", run.config, "log.progress=off"};
    job.log = run.dir + ".log";
    job.progress = [run] { return progress_text(run.dir, run.steps); };
    job.accept = [run](int code) {
      if (code == kDiverged) write_file_atomic(failure_file(run), last_words(run.dir + ".log"));
      return code == kDiverged;
    };
    return job;
  }

  Job evaluation(const Plan& plan, const PlannedRun& run) const {
    const RunConfig config = plan.config(run);
    Job job;
    job.name = run.name + ": evaluation";
    std::vector<std::string> options = {"--json",
                                        "--precision",
                                        config.train.precision,
                                        "--device",
                                        config.run.device,
                                        "--cross-document",
                                        config.data.cross_document,
                                        "--samples",
                                        std::to_string(config.eval.samples.value_or(0))};
    if (!config.recall()) {
      options.insert(options.end(), {"--data", config.data.path});
      if (comparison_.compare.recall) add_probes(options);
    }
    job.arguments = {"eval", run.dir};
    job.arguments.insert(job.arguments.end(), options.begin(), options.end());
    job.made_by = command_text(options);
    job.log = run.evaluation + ".log";
    job.out = run.evaluation;
    return job;
  }

  void add_probes(std::vector<std::string>& arguments) const {
    const CompareSection& compare = comparison_.compare;
    arguments.insert(arguments.end(),
                     {"--recall", "--recall-samples", std::to_string(compare.recall_samples)});
    if (compare.recall_contexts.empty()) return;
    arguments.push_back("--recall-context");
    for (const int64_t context : compare.recall_contexts)
      arguments.push_back(std::to_string(context));
  }

  // All devices that this comparison has run on, a line each.
  std::string device_file() const { return dir_ + "/measured/devices.txt"; }
  std::vector<std::string> devices() const {
    std::vector<std::string> names;
    if (fs::exists(device_file()))
      for (const std::string& name : split(read_file(device_file()), '\n'))
        if (!name.empty()) names.push_back(name);
    return names;
  }
  void note_device() {
    std::vector<std::string> names = devices();
    if (std::find(names.begin(), names.end(), device_name(device_)) != names.end()) return;
    names.push_back(device_name(device_));
    write_file_atomic(device_file(), join(names, "\n") + "\n");
  }
  const Comparison& comparison_;
  std::string command_, dir_;
  at::Device device_{at::kCPU};
  JobOptions jobs_;
};

}  // namespace

std::string describe_comparison(const Comparison& comparison) {
  const RunConfig shared = comparison.recipe_with(comparison.contenders.front().model);
  const Plan plan(comparison, match_contenders(comparison, vocabulary(shared)));
  return comparison_text(comparison, plan);
}

void run_comparison(const Comparison& comparison, const std::string& command) {
  Runner(comparison, command).run();
}

void report_comparison(const Comparison& comparison, const std::string& command) {
  Runner(comparison, command).report();
}

}  // namespace ceiling
