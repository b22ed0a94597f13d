// The sentences of the report.
#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/text.h"
#include "train/compare/report_content.h"

namespace ceiling {

namespace {

bool is_task(const ComparisonResults& results) { return !results.task.empty(); }

std::string superlative(const ComparisonResults& results) {
  return is_task(results) ? "the highest accuracy" : "the lowest loss";
}

const char* plural(size_t n) { return n == 1 ? "" : "s"; }

const char* is_or_are(size_t n) { return n == 1 ? "is" : "are"; }

std::string budget_word(const std::string& budget) { return budget == "flops" ? "FLOPs" : budget; }

// The longest position that was evaluated, plus one; 0 if unknown.
int64_t evaluated_context(const ComparisonResults& results) {
  int64_t context = 0;
  for (const RunResult& run : results.runs)
    if (run.evaluation)
      for (const PositionLoss& position : run.evaluation->by_position)
        context = std::max(context, position.last + 1);
  return context;
}

std::vector<std::string> contenders_without(const ComparisonResults& results,
                                            bool (*has)(const ComparisonResults&,
                                                        const Contender&)) {
  std::vector<std::string> without;
  for (const Contender& contender : results.contenders)
    if (!has(results, contender)) without.push_back(contender.name);
  return without;
}

bool has_recall(const ComparisonResults& results, const Contender& contender) {
  return std::any_of(results.runs.begin(), results.runs.end(), [&](const RunResult& run) {
    return run.contender == contender.name && run.evaluation && !run.evaluation->recall.empty();
  });
}

bool has_decoding(const ComparisonResults&, const Contender& contender) {
  return !contender.decoding.empty();
}

}  // namespace

std::string listed(const std::vector<std::string>& names) {
  if (names.size() < 2) return join(names, "");
  return join({names.begin(), names.end() - 1}, ", ") + " and " + names.back();
}

std::string metric_text(const ComparisonResults& results, double value) {
  return is_task(results) ? fmt::format("{:.2f} %", 100 * value) : fmt::format("{:.4f}", value);
}

std::string metric_difference_text(const ComparisonResults& results, double value) {
  return is_task(results) ? fmt::format("{:+.2f} points", 100 * value)
                          : fmt::format("{:+.4f}", value);
}

std::string metric_with_error(const ComparisonResults& results, double value,
                              const std::optional<double>& half_width) {
  if (!half_width) return metric_text(results, value);
  return is_task(results) ? fmt::format("{:.2f} ± {:.2f} %", 100 * value, 100 * *half_width)
                          : fmt::format("{:.4f} ± {:.4f}", value, *half_width);
}

std::string budget_text(const ComparisonResults& results, const std::string& budget) {
  const std::string words = "same " + budget_word(budget);
  const auto runs = judged_runs(results, budget, results.baseline);
  if (runs.empty()) return words;
  const RunResult& run = *runs.front();
  const std::string amount = budget == "flops"  ? format_count(run.training_flops)
                             : budget == "time" ? format_duration(run.seconds)
                                                : format_count(static_cast<double>(run.tokens));
  return fmt::format("{} ({})", words, amount);
}

std::string answer_sentence(const ComparisonResults& results, const BudgetSummary& budget) {
  const std::string with = "With the " + budget_text(results, budget.budget) + ", ";
  if (budget.leaders.empty()) return with + "no contender finished its runs.";
  const ContenderSummary& best = budget.contenders.front();
  const std::string value = metric_with_error(results, *best.mean, best.half_width);
  const std::string leaders = listed(budget.leaders);
  const auto& others = budget.indistinguishable;
  if (budget.differences.empty())
    return fmt::format("{}only {} finished: {} {}.", with, leaders, metric_name(results), value);
  if (budget.dof == 0)
    return fmt::format("{}{} {} {}, {}. One seed: no interval, so this may be chance.", with,
                       leaders, budget.leaders.size() == 1 ? "has" : "share", superlative(results),
                       value);
  if (budget.is_decided())
    return fmt::format(
        "{}{} is best: {} {}. The 95 % interval of its difference to every other contender "
        "excludes zero.",
        with, leaders, metric_name(results), value);
  std::string text =
      fmt::format("{}{} {} {}, {}", with, leaders, budget.leaders.size() == 1 ? "has" : "share",
                  superlative(results), value);
  if (!others.empty())
    text += fmt::format(", but {} {} not distinguishable from {}", listed(others),
                        is_or_are(others.size()), budget.leaders.size() == 1 ? "it" : "them");
  return text + ".";
}

namespace {

// Budgets that `belongs` picks, as "the same tokens and FLOPs".
std::string same_budgets(const std::vector<BudgetSummary>& budgets,
                         const std::function<bool(const BudgetSummary&)>& belongs) {
  std::vector<std::string> words;
  for (const BudgetSummary& budget : budgets)
    if (belongs(budget)) words.push_back(budget_word(budget.budget));
  return "the same " + listed(words);
}

// How sure the leads are, as a sentence of its own; nothing if all are.
std::string certainty(const std::vector<BudgetSummary>& budgets) {
  const auto is_decided = [](const BudgetSummary& budget) { return budget.is_decided(); };
  const auto has_interval = [](const BudgetSummary& budget) { return budget.dof > 0; };
  if (std::none_of(budgets.begin(), budgets.end(), has_interval))
    return " One seed: no interval, so this may be chance.";
  if (std::all_of(budgets.begin(), budgets.end(), is_decided)) return "";
  if (std::none_of(budgets.begin(), budgets.end(), is_decided)) return " No lead is clear at 95 %.";
  return " The lead is clear at 95 % only with " + same_budgets(budgets, is_decided) + ".";
}

}  // namespace

std::string verdict_of(const std::vector<BudgetSummary>& budgets) {
  std::vector<std::vector<std::string>> leaders;  // that differ, in order
  for (const BudgetSummary& budget : budgets)
    if (std::find(leaders.begin(), leaders.end(), budget.leaders) == leaders.end())
      leaders.push_back(budget.leaders);
  if (leaders.size() == 1) {
    const std::vector<std::string>& names = leaders.front();
    if (names.empty()) return "No contender finished its runs.";
    const std::string everywhere = budgets.size() == 1 ? "." : " at every budget.";
    if (names.size() > 1) return listed(names) + " are equal and ahead" + everywhere;
    const std::string doubt = certainty(budgets);
    return names[0] + (doubt.empty() ? " is best" : " is ahead") + everywhere + doubt;
  }
  std::vector<std::string> parts;
  for (const std::vector<std::string>& names : leaders)
    if (!names.empty())
      parts.push_back(listed(names) + " with " +
                      same_budgets(budgets, [&](const BudgetSummary& budget) {
                        return budget.leaders == names;
                      }));
  return "No single winner. Ahead: " + join(parts, "; ") + "." + certainty(budgets);
}

std::string method_text(const ComparisonResults& results,
                        const std::vector<BudgetSummary>& budgets) {
  std::string text =
      "Every contender is trained at its own best learning rate, once per seed, and its result is "
      "the mean over seeds. ";
  std::vector<std::string> spreads;
  for (const BudgetSummary& budget : budgets)
    if (budget.seed_deviation)
      spreads.push_back(fmt::format(
          "{} with the same {} ({:.0f}{})",
          is_task(results) ? fmt::format("{:.2f} points", 100 * *budget.seed_deviation)
                           : fmt::format("{:.4f}", *budget.seed_deviation),
          budget_word(budget.budget), budget.dof, spreads.empty() ? " degrees of freedom" : ""));
  if (spreads.empty())
    return text +
           "There is one seed per contender. How far another seed would move a result is not "
           "known, "
           "so no interval is given and no contender is called better with confidence.";
  text +=
      "A few seeds of one contender say little about chance, so all contenders of a budget share "
      "one estimate of the spread between seeds: a standard deviation of " +
      listed(spreads) +
      ". Intervals are 95 % intervals of Student's t with these degrees of freedom. ";
  text +=
      "A difference of two contenders is also taken sample by sample over the evaluation set, "
      "which both saw, and its interval has the noise of these samples too. ";
  if (is_task(results))
    text +=
        "Runs of such a task often solve it wholly or not at all, which no interval describes "
        "well: look at the single seeds too. ";
  return text +
         "Two contenders are called not distinguishable when the interval of their difference "
         "includes zero. The method assumes that chance spreads all contenders alike: one that "
         "varies "
         "more from seed to seed than the others has too narrow an interval. Otherwise intervals "
         "of "
         "differences are too wide rather than too narrow (train/compare/statistics.h has the "
         "formulas and their sources).";
}

namespace {

// What the amount of training and of data leaves open.
void add_limits_of_scale(const ComparisonResults& results, std::vector<std::string>& limits) {
  const auto runs = judged_runs(results, "tokens", results.baseline);
  if (runs.empty()) return;
  const RunResult& run = *runs.front();
  const auto parameters = static_cast<double>(results.contender(results.baseline).parameters);
  const double per_parameter = static_cast<double>(run.tokens) / parameters;
  limits.push_back(fmt::format(
      "The models have about {} parameters. What wins at this size need not win at a larger one.",
      format_count(parameters)));
  if (is_task(results)) {
    limits.push_back(fmt::format(
        "The task {} is synthetic. It shows one ability, not how well a model learns language.",
        results.task));
  } else {
    limits.push_back(fmt::format(
        "They see {:.1f} tokens per parameter{}.", per_parameter,
        per_parameter < 20
            ? "; compute-optimal training uses about 20 (Hoffmann et al., 2022), and longer "
              "training may change the order"
            : ""));
  }
  if (!run.evaluation) return;
  limits.push_back(fmt::format("There is one data set, evaluated on {} targets in {} sample{}.",
                               format_thousands(run.evaluation->n_targets),
                               format_thousands(run.evaluation->n_samples),
                               plural(static_cast<size_t>(run.evaluation->n_samples))));
  if (const int64_t context = evaluated_context(results))
    limits.push_back(fmt::format(
        "The evaluation's longest context is {} tokens. It says nothing of longer ones.",
        format_thousands(context)));
}

void add_limits_of_rates(const ComparisonResults& results, std::vector<std::string>& limits) {
  std::vector<std::string> at_edge;
  for (const Contender& contender : results.contenders)
    if (contender.best_is_at_edge()) at_edge.push_back(contender.name);
  if (!at_edge.empty())
    limits.push_back(fmt::format(
        "The best learning rate of {} is at the edge of the grid: a rate beyond it may be better.",
        listed(at_edge)));
  if (results.budgets.size() > 1)
    limits.push_back(
        "Learning rates were chosen with the same tokens; the other budgets use the same rates.");
  limits.push_back(
      "The seed that chose a contender's rate is one of those that it is judged by, so results are "
      "a little too good, for all alike.");
}

}  // namespace

std::vector<std::string> limits_of(const ComparisonResults& results,
                                   const std::vector<BudgetSummary>& budgets) {
  std::vector<std::string> limits;
  size_t seeds = 0;
  for (const ContenderSummary& contender : budgets.front().contenders)
    seeds = std::max(seeds, contender.runs.size());
  limits.push_back(fmt::format("There {} {} seed{} per contender.{}", is_or_are(seeds), seeds,
                               plural(seeds), seeds > 4 ? "" : " Small differences need more."));
  const size_t pairs = budgets.front().differences.size();
  if (pairs > 1 && budgets.front().dof > 0)
    limits.push_back(
        fmt::format("Each interval is for one pair. Of {} pairs per budget, about one in twenty "
                    "looks different "
                    "by chance.",
                    pairs));
  add_limits_of_scale(results, limits);
  add_limits_of_rates(results, limits);
  double worst_match = 0;
  for (const Contender& contender : results.contenders)
    worst_match = std::max(worst_match, std::abs(contender.match_error));
  if (worst_match > 0.01)
    limits.push_back(fmt::format("Numbers of parameters are up to {:.1f} % off the wanted one.",
                                 100 * worst_match));
  limits.push_back(
      fmt::format("Speeds, and with them the budget of time, are those of {} and this "
                  "version's kernels.",
                  results.device.empty() ? "this machine" : results.device));
  const auto no_recall = contenders_without(results, has_recall);
  if (!no_recall.empty() && !is_task(results))
    limits.push_back("Recall was not measured for " + listed(no_recall) + ".");
  const auto no_decoding = contenders_without(results, has_decoding);
  if (!no_decoding.empty())
    limits.push_back("Decoding was not measured for " + listed(no_decoding) + ".");
  return limits;
}

}  // namespace ceiling
