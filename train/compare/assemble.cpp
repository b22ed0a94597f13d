#include "train/compare/assemble.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "base/version.h"
#include "data/loader.h"
#include "train/compare/contract.h"
#include "train/compare/report_content.h"
#include "train/compare/run_record.h"
#include "train/describe.h"
#include "train/model_bench.h"

namespace ceiling {

namespace {

GridPoint grid_point(const PlannedRun& run) {
  GridPoint point;
  point.lr = run.lr, point.run = run.name;
  if ((point.failed = failure_of(run))) return point;
  const RunRecord record = read_record(run.dir);
  if (record.valid.empty()) return point;
  point.loss_nats = record.valid.back().loss, point.accuracy = record.valid.back().accuracy;
  return point;
}

bool better(const GridPoint& a, const GridPoint& b) {
  if (!a.loss_nats || !b.loss_nats) return a.loss_nats.has_value();
  return std::pair(-a.accuracy.value_or(0), *a.loss_nats) <
         std::pair(-b.accuracy.value_or(0), *b.loss_nats);
}

std::vector<GridPoint> grid_of(const Plan& plan, size_t contender) {
  std::vector<GridPoint> points;
  for (const PlannedRun& run : plan.grid())
    if (run.contender == contender) points.push_back(grid_point(run));
  return points;
}

RunResult result_of(const PlannedRun& run, const Plan& plan, double tokens_per_s) {
  const MatchedContender& contender = plan.contenders()[run.contender];
  RunResult result;
  result.name = run.name, result.contender = contender.name, result.budget = run.budget;
  result.lr = run.lr, result.seed = run.seed, result.steps = run.steps;
  result.tokens = plan.config(run).tokens_per_step() * run.steps;
  result.training_flops = static_cast<double>(result.tokens) * contender.training_flops_per_token;
  result.seconds = static_cast<double>(result.tokens) / tokens_per_s;
  result.command = command_text({"train", run.config});
  RunRecord record = read_record(run.dir);
  result.data_hash = record.data_hash;
  result.train_curve = std::move(record.train), result.eval_curve = std::move(record.valid);
  result.failed = failure_of(run);
  return result;
}

Evaluation evaluation_of(const PlannedRun& run) {
  const auto json = nlohmann::json::parse(read_file(run.evaluation), nullptr, false);
  if (json.is_discarded())
    throw Error("{}: is damaged; remove it, and the comparison evaluates again", run.evaluation);
  return read_evaluation(json, run.evaluation);
}

// The steps of a budget of time follow from one measurement of the speed. The runs' own speed,
// where nothing ran beside them, must be near it.
void mark_disturbed_speeds(const Comparison& comparison, const Plan& plan,
                           const std::vector<Contender>& contenders,
                           std::vector<std::string>& marks) {
  constexpr double kNear = 1.5;
  if (comparison.compare.jobs > 1) return;
  for (size_t i = 0; i < contenders.size(); ++i) {
    std::vector<double> seen;
    for (const PlannedRun& run : plan.grid())
      if (run.contender == i)
        for (const double speed : read_record(run.dir).tokens_per_s) seen.push_back(speed);
    if (seen.empty()) continue;
    const auto middle = seen.begin() + static_cast<std::ptrdiff_t>(seen.size() / 2);
    std::nth_element(seen.begin(), middle, seen.end());
    const double measured = training_tokens_per_s(comparison, contenders[i].training_speed);
    if (*middle < kNear * measured && measured < kNear * *middle) continue;
    marks.push_back(
        fmt::format("{0}: {1} tok/s were measured, but its runs made {2}: something ran beside one "
                    "of them, and "
                    "a budget of time may be wrong. Remove {3}/measured/{0}.train-*.json and run "
                    "the comparison "
                    "again.",
                    contenders[i].name, format_thousands(std::llround(measured)),
                    format_thousands(std::llround(*middle)), comparison.compare.dir));
  }
}

void mark_uneven_speeds(const Comparison& comparison, const std::vector<Contender>& contenders,
                        std::vector<std::string>& marks) {
  for (const Contender& contender : contenders)
    for (const TrainingSpeed& speed : contender.training_speed)
      if (speed.unevenness.value_or(1) > kUneven)
        marks.push_back(
            fmt::format("{0}: when its speed at {1} tokens was measured, most steps took {2:.1f} "
                        "times as long as the fastest: something ran beside them. Remove "
                        "{3}/measured/{0}.* and run the comparison again.",
                        contender.name, format_thousands(speed.context), *speed.unevenness,
                        comparison.compare.dir));
}

// What a reader must know beside the numbers.
std::vector<std::string> marks_of(const Comparison& comparison, const Plan& plan,
                                  const std::vector<Contender>& contenders) {
  std::vector<std::string> marks;
  const CompareSection& compare = comparison.compare;
  mark_disturbed_speeds(comparison, plan, contenders, marks);
  mark_uneven_speeds(comparison, contenders, marks);
  std::vector<std::string> at_edge;
  for (const Contender& contender : contenders) {
    for (const GridPoint& point : contender.grid)
      if (point.failed)
        marks.push_back(
            fmt::format("{} diverged at rate {}.", contender.name, format_double(point.lr)));
    if (contender.every_rate_failed())
      marks.push_back(contender.name + " diverged at every rate: it is not judged.");
    else if (contender.best_is_at_edge())
      at_edge.push_back(fmt::format("{} ({})", contender.name, format_double(*contender.best_lr)));
    if (std::abs(contender.match_error) > 0.01)
      marks.push_back(
          fmt::format("{} has {:+.1f} % parameters.", contender.name, 100 * contender.match_error));
  }
  if (!at_edge.empty())
    marks.push_back("Best at the edge of the grid of rates: " + listed(at_edge) +
                    "; a wider grid may find a better one.");
  if (compare.seeds < 2) marks.push_back("One seed: no interval can be given.");
  const RunConfig config = comparison.recipe_with(plan.contenders().front().model);
  if (!config.recall()) {
    const auto tokens =
        static_cast<double>(DatasetReader(config.data.path).summary(Split::kTrain).n_tokens);
    const double epochs = static_cast<double>(config.tokens_per_step() * plan.steps()) / tokens;
    if (epochs > 1)
      marks.push_back(
          fmt::format("Runs of equal tokens read the training text {:.1f} times.", epochs));
  }
  if (config.train.precision == "auto")
    marks.push_back("train.precision is auto: another machine may compute in another precision.");
  return marks;
}

}  // namespace

std::string failure_file(const PlannedRun& run) { return run.dir + ".failed"; }

std::optional<std::string> failure_of(const PlannedRun& run) {
  if (!fs::exists(failure_file(run))) return std::nullopt;
  return read_file(failure_file(run));
}

std::optional<double> best_rate(const Plan& plan, size_t contender) {
  const std::vector<GridPoint> points = grid_of(plan, contender);
  const auto best = std::min_element(points.begin(), points.end(), better);
  if (best == points.end() || !best->loss_nats) return std::nullopt;
  return best->lr;
}

double training_tokens_per_s(const Comparison& comparison,
                             const std::vector<TrainingSpeed>& speeds) {
  const int64_t context = comparison.recipe_with(comparison.contenders.front().model).data.context;
  for (const TrainingSpeed& speed : speeds)
    if (speed.context == context) return speed.tokens_per_s;
  throw Error("no speed was measured at {} tokens", context);
}

ComparisonResults assemble_results(const Comparison& comparison, const Plan& plan,
                                   const Measurements& measurements,
                                   const std::vector<PlannedRun>& judged) {
  const RunConfig shared = comparison.recipe_with(plan.contenders().front().model);
  ComparisonResults results;
  results.title = comparison.compare.title;
  results.date = utc_now().substr(0, 10);
  results.versions = {kVersion, kTorchVersion};
  results.contract = contract_text(comparison, plan);
  results.task = shared.recall() ? shared.data.task : "";
  results.baseline = plan.contenders().front().name;
  results.context = shared.data.context;
  results.budgets = plan.budgets();
  std::vector<double> tokens_per_s;
  for (size_t i = 0; i < plan.contenders().size(); ++i) {
    const MatchedContender& matched = plan.contenders()[i];
    Contender contender;
    contender.name = matched.name, contender.architecture = matched.architecture;
    ModelSection model = read_model_section(matched.model);
    contender.model_yaml = to_yaml(dump_config(model));
    contender.parameters = matched.parameters;
    contender.non_embedding_parameters = matched.non_embedding_parameters;
    contender.match_error = matched.match_error;
    contender.training_flops_per_token = matched.training_flops_per_token;
    contender.grid = grid_of(plan, i);
    contender.best_lr = best_rate(plan, i);
    contender.training_speed = measurements.training(matched);
    contender.decoding = measurements.decoding(matched);
    for (const DecodingSpeed& speed : contender.decoding)
      if (speed.state_bytes) contender.state_bytes.push_back({speed.length, *speed.state_bytes});
    tokens_per_s.push_back(training_tokens_per_s(comparison, contender.training_speed));
    results.contenders.push_back(std::move(contender));
  }
  std::vector<std::string> missing;
  for (const PlannedRun& run : judged) {
    RunResult result = result_of(run, plan, tokens_per_s[run.contender]);
    if (!result.failed && !fs::exists(run.evaluation)) {
      missing.push_back(run.name);
      continue;
    }
    if (!result.failed) result.evaluation = evaluation_of(run);
    results.runs.push_back(std::move(result));
  }
  for (const PlannedRun& run : plan.grid()) {
    if (results.contenders[run.contender].best_lr == run.lr) continue;
    if (!failure_of(run) && !is_finished(run.dir, run.steps)) {
      missing.push_back(run.name);
      continue;
    }
    RunResult result = result_of(run, plan, tokens_per_s[run.contender]);
    result.grid_only = true;
    results.runs.push_back(std::move(result));
  }
  results.marks = marks_of(comparison, plan, results.contenders);
  if (!missing.empty())
    results.marks.insert(
        results.marks.begin(),
        fmt::format("This is a report before the end: {} of {} runs are not "
                    "finished ({}).",
                    missing.size(), missing.size() + results.runs.size(), join(missing, ", ")));
  return results;
}

std::string comparison_text(const Comparison& comparison, const Plan& plan) {
  std::vector<DescriptionRow> rows = {{"equal for all", ""}};
  for (const NamedValue& row : contract_text(comparison, plan))
    rows.push_back({"  " + row.name, row.value});
  rows.push_back({"contenders", ""});
  for (const MatchedContender& contender : plan.contenders())
    rows.push_back(
        {"  " + contender.name,
         fmt::format(
             "{}, {} parameters without embedding and head ({:+.2f} %){}, {} FLOPs a token",
             contender.architecture, format_thousands(contender.non_embedding_parameters),
             100 * contender.match_error,
             contender.key.empty() ? "" : fmt::format(", {} {}", contender.key, contender.value),
             format_count(contender.training_flops_per_token))});
  const CompareSection& compare = comparison.compare;
  const auto n = static_cast<int64_t>(plan.contenders().size());
  const auto n_budgets = static_cast<int64_t>(plan.budgets().size());
  rows.push_back(
      {"runs", fmt::format("{} of the grid, up to {} more at the best rates with the "
                           "same {}",
                           n * static_cast<int64_t>(compare.lr.size()),
                           n * (compare.seeds * n_budgets - 1), join(plan.budgets(), ", "))});
  return description_text(rows);
}

}  // namespace ceiling
