// Who won at each budget, and how surely.
//
// The runs of a budget are those at each contender's best rate, one per seed s. L_cs is the final
// loss of contender c, and n_c its number of seeds. A contender's result is M_c, the mean of L_cs
// over s.
//
//   Noise of seeds. Two seeds say little of their own spread (t = 12.7 with one degree of freedom),
//   so all contenders of a budget share one estimate, as in a one-way analysis of variance:
//     s^2 = sum_c sum_s (L_cs - M_c)^2 / v,   v = sum_c (n_c - 1)
//   and the 95 % interval of a contender is M_c +- t(v) s / sqrt(n_c), t(v) being the two-sided
//   quantile of Student's t. It is how far the mean over ever more seeds may be, on these
//   evaluation samples.
//
//   Noise of evaluation samples. A loss is a ratio of sums over samples i, of nats x_ci (mean over
//   seeds) and of targets n_i. Contenders see the same samples, and what is hard for one is hard
//   for all, so the difference is taken sample by sample:
//     R = sum_i (x_ai - x_bi) / sum_i n_i,   e_i = x_ai - x_bi - R n_i
//     SE_samples^2 = N / (N - 1) * sum_i e_i^2 / (sum_i n_i)^2        (the ratio linearised)
//   For an accuracy x_ci counts the right answers. Where these were not kept per sample,
//   p_a (1 - p_a) / N + p_b (1 - p_b) / N takes its place: the most that N samples can vary.
//
//   A difference a - b, over the seeds that both have (n of them), has the 95 % interval
//     M_a - M_b +- t(v) sqrt(2 s^2 / n + SE_samples^2).
//
// Equal seeds share the data's order, and the second term has many more degrees of freedom than v:
// both make the interval of a difference too wide rather than too narrow. It assumes that seeds
// spread every contender alike; one that varies more has too narrow an interval.
//
// Sources: Box, Hunter, Hunter, Statistics for Experimenters (2005), ch. 4 (pooled variance);
// Cochran, Sampling Techniques (1977), ch. 6 (variance of a ratio estimate); Miller, Adding
// Error Bars to Evals, arXiv 2411.00640 (paired samples).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "train/compare/results.h"

namespace ceiling {

// The t for which a Student variable of `dof` degrees of freedom lies within -t..t with probability
// `level`.
double t_quantile(double level, double dof);

struct Interval {
  double low = 0, high = 0;
  bool has_zero() const { return low <= 0 && high >= 0; }
};

// sum(difference) / sum(weight) over samples, and its standard error; no error of one sample alone.
struct RatioEstimate {
  double ratio = 0;
  std::optional<double> standard_error;
};
RatioEstimate paired_ratio(const std::vector<double>& difference,
                           const std::vector<int64_t>& weight);

struct ContenderSummary {
  std::string contender;
  std::vector<const RunResult*> runs;  // that finished, by seed
  std::optional<double> mean;          // of the loss, or of the accuracy
  std::optional<double> half_width;    // of its 95 % interval
  std::optional<double> bits_per_byte;
  std::string not_ranked;  // why it cannot win: no run, or one that failed; empty: it can
};

struct Difference {
  std::string a, b;
  double difference = 0;  // a - b
  std::optional<Interval> interval;
};

struct BudgetSummary {
  std::string budget;
  std::vector<ContenderSummary> contenders;    // the best first, those not ranked last
  std::vector<Difference> differences;         // each pair that is ranked, in that order
  double dof = 0;                              // v; 0: one seed each, so there is no interval
  std::optional<double> seed_deviation;        // s
  std::vector<std::string> leaders;            // the best mean; several if their means are equal
  std::vector<std::string> indistinguishable;  // others whose difference to a leader may be zero
  // An interval separates the one leader from all others. Never with one seed each.
  bool is_decided() const {
    return dof > 0 && leaders.size() == 1 && indistinguishable.empty() && differences.size() > 0;
  }
};

// "loss" or, of a task, "accuracy".
std::string metric_name(const ComparisonResults& results);
double metric_of(const ComparisonResults& results, const Evaluation& evaluation);

// The runs that a budget is judged by, failed ones too, by seed. The baseline sets the FLOPs and
// the time of the other two budgets: where it has no runs of them, its runs of the tokens budget
// stand for them.
std::vector<const RunResult*> judged_runs(const ComparisonResults& results,
                                          const std::string& budget, const std::string& contender);

// One per budget of the results, in their order; points into `results`.
// Error if runs of a budget were evaluated on different samples.
std::vector<BudgetSummary> summarise(const ComparisonResults& results);

}  // namespace ceiling
