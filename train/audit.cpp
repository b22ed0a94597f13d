#include "train/audit.h"

#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/stop.h"
#include "base/text.h"
#include "checkpoints/store.h"
#include "data/samples.h"
#include "train/consumed_log.h"
#include "train/run_config.h"
#include "train/setup.h"

namespace ceiling {

namespace {

// Which samples of the present epoch of a part have occurred.
class EpochMarks {
 public:
  explicit EpochMarks(int64_t per_epoch) : seen_(static_cast<size_t>(per_epoch)) {}
  // False if the sample has occurred in this epoch already.
  bool mark(int64_t sample) {
    if (seen_[static_cast<size_t>(sample)]) return false;
    seen_[static_cast<size_t>(sample)] = true;
    ++n_consumed_;
    if (n_consumed_ % static_cast<int64_t>(seen_.size()) == 0) seen_.assign(seen_.size(), false);
    return true;
  }
  int64_t n_consumed() const { return n_consumed_; }

 private:
  std::vector<bool> seen_;
  int64_t n_consumed_ = 0;
};

Checkpoint newest_checkpoint(const std::string& run_dir) {
  auto found = CheckpointStore(run_dir + "/checkpoints")
                   .latest_valid([](const std::string& name, const std::string& why) {
                     spdlog::warn("{}: skipped, {}", name, why);
                   });
  if (!found) throw Error("{}: has no checkpoint yet, so nothing that counts as consumed", run_dir);
  return std::move(*found);
}

}  // namespace

AuditReport audit_run(const std::string& run_dir,
                      const std::function<void(int64_t step, int64_t n_steps)>& progress) {
  const Checkpoint checkpoint = newest_checkpoint(run_dir);
  RunConfig config = read_run_config(load_config_file(checkpoint.path() + "/config.yaml"));
  const LoaderOptions data = loader_options(config, Split::kTrain, at::kCPU);
  Samples samples(data);
  const std::string other_data = data_changes(checkpoint.state().at("data"), samples.describe());
  if (!other_data.empty())
    throw Error("{}: the dataset is not what the run was trained on:\n{}",
                data.recall ? "data.task" : config.data.path, other_data);

  AuditReport report;
  report.n_steps = checkpoint.state().at("step");
  const std::string log = run_dir + "/consumed.txt";
  const std::vector<ConsumedStep> steps = ConsumedLog::read(run_dir);
  if (static_cast<int64_t>(steps.size()) < report.n_steps)
    throw Error("{}: holds {} steps, {} is at step {}", log, steps.size(), checkpoint.name(),
                report.n_steps);
  std::vector<std::string> names;
  for (const MixturePart& part : data.parts) names.push_back(part.path);
  if (data.recall) names.push_back("task " + data.recall->task);
  std::vector<EpochMarks> marks;
  for (size_t part = 0; part < names.size(); ++part) marks.emplace_back(samples.per_epoch(part));
  std::vector<int32_t> row(3 * static_cast<size_t>(data.context));
  std::string chain(64, '0');
  for (int64_t i = 0; i < report.n_steps; ++i) {
    stop::check();
    const ConsumedStep& s = steps[static_cast<size_t>(i)];
    if (s.step != i + 1 || s.first_position != report.n_samples ||
        s.n_samples != config.train.global_batch)
      throw Error("{}:{}: step {} has samples {} to {}; step {} with {} to {} was expected", log,
                  i + 1, s.step, s.first_position, s.first_position + s.n_samples - 1, i + 1,
                  report.n_samples, report.n_samples + config.train.global_batch - 1);
    uint64_t digest = 0;
    int64_t n_targets = 0;
    for (int64_t p = s.first_position; p < s.first_position + s.n_samples; ++p) {
      const Samples::Place place = samples.place(p);
      if (!marks[place.part].mark(place.sample))
        throw Error("{}: sample {} of {} comes a second time within an epoch, at position {}",
                    run_dir, place.sample, names[place.part], p);
      const size_t n = static_cast<size_t>(data.context);
      const Samples::Read read =
          samples.read(p, place, {row.data(), row.data() + n, row.data() + 2 * n});
      digest += read.digest, n_targets += read.n_targets;
    }
    if (digest != s.digest || n_targets != s.n_targets)
      throw Error(
          "{}:{}: step {} consumed other tokens than belong to its samples: digest {:016x} with {} "
          "targets, {:016x} with {} was expected",
          log, i + 1, s.step, s.digest, s.n_targets, digest, n_targets);
    chain = Sha256().update(chain).update(&digest, sizeof digest).hex();
    report.n_samples += s.n_samples;
    if (report.world_sizes.empty() || report.world_sizes.back().second != s.world_size)
      report.world_sizes.emplace_back(s.step, s.world_size);
    if (progress) progress(i + 1, report.n_steps);
  }
  report.data_hash = checkpoint.state().at("data_hash");
  if (chain != report.data_hash)
    throw Error("{}: data hash {}, the records give {}", checkpoint.path(), report.data_hash,
                chain);
  for (size_t part = 0; part < marks.size(); ++part)
    report.parts.push_back({names[part], marks[part].n_consumed(), samples.per_epoch(part)});
  return report;
}

std::string audit_text(const AuditReport& report) {
  std::string text =
      fmt::format("{} steps, {} samples, each as often as it should be; data hash {}\n",
                  format_thousands(report.n_steps), format_thousands(report.n_samples),
                  report.data_hash.substr(0, 16));
  for (const AuditReport::Part& part : report.parts)
    text += fmt::format(
        "{}: {} epochs in which every sample came exactly once, and {} of {} samples of the next\n",
        part.name, part.n_consumed / part.per_epoch,
        format_thousands(part.n_consumed % part.per_epoch), format_thousands(part.per_epoch));
  for (const auto& [step, ranks] : report.world_sizes)
    text += fmt::format("from step {} by {} {}\n", step, ranks, ranks == 1 ? "process" : "ranks");
  return text;
}

}  // namespace ceiling
