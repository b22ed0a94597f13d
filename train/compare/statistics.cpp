#include "train/compare/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace ceiling {

namespace {

// The continued fraction of the incomplete beta function (DLMF 8.17.22), by the modified method of
// Lentz.
double beta_fraction(double a, double b, double x) {
  const auto not_zero = [](double value) { return std::abs(value) < 1e-300 ? 1e-300 : value; };
  double c = 1, d = 1 / not_zero(1 - (a + b) * x / (a + 1)), fraction = d;
  for (int m = 1; m < 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double factor = 1;
    for (const double term : {even, odd}) {
      d = 1 / not_zero(1 + term * d);
      c = not_zero(1 + term / c);
      factor = c * d;
      fraction *= factor;
    }
    if (std::abs(factor - 1) < 1e-15) break;
  }
  return fraction;
}

// I_x(a, b), of x and its complement 1 - x: each is small where the other is near 1.
double regularised_beta(double a, double b, double x, double complement) {
  if (x <= 0) return 0;
  if (complement <= 0) return 1;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log(complement));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, complement) / b;
}

double square(double value) { return value * value; }

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

}  // namespace

double t_quantile(double level, double dof) {
  const auto within = [dof](double t) {
    return regularised_beta(0.5, dof / 2, t * t / (dof + t * t), dof / (dof + t * t));
  };
  double low = 0, high = 1;
  while (within(high) < level) high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (within(middle) < level ? low : high) = middle;
  }
  return high;
}

RatioEstimate paired_ratio(const std::vector<double>& difference,
                           const std::vector<int64_t>& weight) {
  double sum = 0, total = 0, squares = 0;
  for (size_t i = 0; i < weight.size(); ++i)
    sum += difference[i], total += static_cast<double>(weight[i]);
  RatioEstimate estimate{.ratio = sum / total, .standard_error = {}};
  for (size_t i = 0; i < weight.size(); ++i)
    squares += square(difference[i] - estimate.ratio * static_cast<double>(weight[i]));
  const auto n = static_cast<double>(weight.size());
  if (weight.size() > 1) estimate.standard_error = std::sqrt(n / (n - 1) * squares) / total;
  return estimate;
}

std::string metric_name(const ComparisonResults& results) {
  return results.task.empty() ? "loss" : "accuracy";
}

double metric_of(const ComparisonResults& results, const Evaluation& evaluation) {
  return results.task.empty() ? evaluation.loss_nats : evaluation.accuracy.value();
}

std::vector<const RunResult*> judged_runs(const ComparisonResults& results,
                                          const std::string& budget, const std::string& contender) {
  std::vector<const RunResult*> runs;
  for (const RunResult& run : results.runs)
    if (run.budget == budget && run.contender == contender && !run.grid_only) runs.push_back(&run);
  if (runs.empty() && budget != "tokens" && contender == results.baseline)
    return judged_runs(results, "tokens", contender);
  std::stable_sort(runs.begin(), runs.end(),
                   [](const RunResult* a, const RunResult* b) { return a->seed < b->seed; });
  return runs;
}

namespace {

ContenderSummary summarise_contender(const ComparisonResults& results, const std::string& budget,
                                     const Contender& contender) {
  ContenderSummary summary;
  summary.contender = contender.name;
  const std::vector<const RunResult*> all = judged_runs(results, budget, contender.name);
  std::vector<double> metrics, bits;
  for (const RunResult* run : all) {
    if (!run->evaluation) continue;
    summary.runs.push_back(run);
    metrics.push_back(metric_of(results, *run->evaluation));
    if (run->evaluation->bits_per_byte.value_or(0) > 0)
      bits.push_back(*run->evaluation->bits_per_byte);
  }
  if (!metrics.empty()) summary.mean = mean_of(metrics);
  if (!bits.empty() && bits.size() == metrics.size()) summary.bits_per_byte = mean_of(bits);
  if (!contender.best_lr)
    summary.not_ranked = contender.every_rate_failed() ? "every learning rate failed" : "not run";
  else if (all.empty())
    summary.not_ranked = "not run";
  else if (metrics.size() < all.size())
    summary.not_ranked =
        fmt::format("{} of {} runs failed", all.size() - metrics.size(), all.size());
  else if (!std::isfinite(*summary.mean))
    summary.not_ranked = "not a number";
  return summary;
}

// Fills s, v and the intervals of single contenders.
void add_seed_noise(const ComparisonResults& results, BudgetSummary& budget) {
  double squares = 0;
  for (const ContenderSummary& contender : budget.contenders) {
    if (!contender.not_ranked.empty()) continue;
    for (const RunResult* run : contender.runs)
      squares += square(metric_of(results, *run->evaluation) - *contender.mean);
    budget.dof += static_cast<double>(contender.runs.size()) - 1;
  }
  if (budget.dof < 1) return;
  budget.seed_deviation = std::sqrt(squares / budget.dof);
  const double t = t_quantile(0.95, budget.dof);
  for (ContenderSummary& contender : budget.contenders)
    if (contender.not_ranked.empty())
      contender.half_width =
          t * *budget.seed_deviation / std::sqrt(static_cast<double>(contender.runs.size()));
}

struct SeedPair {
  const RunResult *a, *b;
};

std::vector<SeedPair> common_seeds(const ContenderSummary& a, const ContenderSummary& b) {
  std::vector<SeedPair> pairs;
  for (const RunResult* run_a : a.runs)
    for (const RunResult* run_b : b.runs)
      if (run_a->seed == run_b->seed) pairs.push_back({run_a, run_b});
  return pairs;
}

void require_same_samples(const RunResult& a, const RunResult& b) {
  if (a.evaluation->sample_targets.empty() || b.evaluation->sample_targets.empty())
    throw Error("run {}: evaluation has no sample_nats, which differences are taken of",
                a.evaluation->sample_targets.empty() ? a.name : b.name);
  if (a.evaluation->sample_targets != b.evaluation->sample_targets)
    throw Error(
        "runs {} and {} were evaluated on different samples ({} and {}, or of other lengths); "
        "evaluate both on the same data, context and number of samples",
        a.name, b.name, a.evaluation->sample_targets.size(), b.evaluation->sample_targets.size());
}

// Whether the accuracies of all runs are known sample by sample.
bool have_sample_right(const std::vector<SeedPair>& pairs) {
  return std::all_of(pairs.begin(), pairs.end(), [](const SeedPair& pair) {
    return !pair.a->evaluation->sample_right.empty() && !pair.b->evaluation->sample_right.empty();
  });
}

// The variance of a - b that the choice of evaluation samples makes; unset with one sample.
std::optional<double> sample_variance(const ComparisonResults& results,
                                      const std::vector<SeedPair>& pairs, double mean_a,
                                      double mean_b) {
  const Evaluation& first = *pairs.front().a->evaluation;
  const bool is_task = !results.task.empty();
  if (is_task && !have_sample_right(pairs)) {
    if (first.n_samples < 2) return {};
    return (mean_a * (1 - mean_a) + mean_b * (1 - mean_b)) / static_cast<double>(first.n_samples);
  }
  const auto value = [is_task](const RunResult& run, size_t i) {
    return is_task ? static_cast<double>(run.evaluation->sample_right[i])
                   : run.evaluation->sample_nats[i];
  };
  std::vector<double> difference(first.sample_targets.size());
  for (const SeedPair& pair : pairs) {
    require_same_samples(*pairs.front().a, *pair.a);
    require_same_samples(*pairs.front().a, *pair.b);
    for (size_t i = 0; i < difference.size(); ++i)
      difference[i] += (value(*pair.a, i) - value(*pair.b, i)) / static_cast<double>(pairs.size());
  }
  const auto error = paired_ratio(difference, first.sample_targets).standard_error;
  return error ? std::optional(square(*error)) : std::nullopt;
}

Difference difference_of(const ComparisonResults& results, const BudgetSummary& budget,
                         const ContenderSummary& a, const ContenderSummary& b) {
  Difference result{a.contender, b.contender, *a.mean - *b.mean, {}};
  const std::vector<SeedPair> pairs = common_seeds(a, b);
  if (pairs.empty()) return result;
  std::vector<double> of_a, of_b;
  for (const SeedPair& pair : pairs) {
    of_a.push_back(metric_of(results, *pair.a->evaluation));
    of_b.push_back(metric_of(results, *pair.b->evaluation));
  }
  const double mean_a = mean_of(of_a), mean_b = mean_of(of_b);
  result.difference = mean_a - mean_b;
  const auto samples = sample_variance(results, pairs, mean_a, mean_b);
  if (!budget.seed_deviation || !samples) return result;
  const double seeds = 2 * square(*budget.seed_deviation) / static_cast<double>(pairs.size());
  const double half_width = t_quantile(0.95, budget.dof) * std::sqrt(seeds + *samples);
  result.interval = Interval{result.difference - half_width, result.difference + half_width};
  return result;
}

void name_leaders(BudgetSummary& budget) {
  const auto& ranked = budget.contenders;
  for (const ContenderSummary& contender : ranked)
    if (contender.not_ranked.empty() && *contender.mean == *ranked.front().mean)
      budget.leaders.push_back(contender.contender);
  const auto leads = [&](const std::string& name) {
    return std::find(budget.leaders.begin(), budget.leaders.end(), name) != budget.leaders.end();
  };
  for (const ContenderSummary& contender : ranked) {
    const std::string& name = contender.contender;
    if (!contender.not_ranked.empty() || leads(name)) continue;
    for (const Difference& pair : budget.differences) {
      const bool to_leader = (pair.b == name && leads(pair.a)) || (pair.a == name && leads(pair.b));
      if (!to_leader || (pair.interval && !pair.interval->has_zero())) continue;
      budget.indistinguishable.push_back(name);
      break;
    }
  }
}

BudgetSummary summarise_budget(const ComparisonResults& results, const std::string& name) {
  BudgetSummary budget;
  budget.budget = name;
  for (const Contender& contender : results.contenders)
    budget.contenders.push_back(summarise_contender(results, name, contender));
  const bool high_wins = !results.task.empty();
  std::stable_sort(budget.contenders.begin(), budget.contenders.end(),
                   [&](const ContenderSummary& a, const ContenderSummary& b) {
                     if (a.not_ranked.empty() != b.not_ranked.empty()) return a.not_ranked.empty();
                     if (!a.not_ranked.empty()) return false;
                     return high_wins ? *a.mean > *b.mean : *a.mean < *b.mean;
                   });
  add_seed_noise(results, budget);
  for (size_t a = 0; a < budget.contenders.size(); ++a)
    for (size_t b = a + 1; b < budget.contenders.size(); ++b)
      if (budget.contenders[b].not_ranked.empty())
        budget.differences.push_back(
            difference_of(results, budget, budget.contenders[a], budget.contenders[b]));
  name_leaders(budget);
  return budget;
}

}  // namespace

std::vector<BudgetSummary> summarise(const ComparisonResults& results) {
  std::vector<BudgetSummary> budgets;
  for (const std::string& name : results.budgets)
    budgets.push_back(summarise_budget(results, name));
  return budgets;
}

}  // namespace ceiling
