#include "train/compare/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "tests/support/expect_error.h"

namespace ceiling {
namespace {

struct Made {
  std::string contender;
  std::vector<double> losses;  // by seed
};

// Contenders whose every sample has the loss of its run: no noise of samples.
ComparisonResults made(const std::vector<Made>& all, size_t n_samples = 4) {
  ComparisonResults results;
  results.budgets = {"tokens"};
  results.baseline = all.front().contender;
  for (const Made& one : all) {
    Contender& contender = results.contenders.emplace_back();
    contender.name = one.contender;
    contender.best_lr = 0.001;
    for (size_t s = 0; s < one.losses.size(); ++s) {
      RunResult& run = results.runs.emplace_back();
      run.name = one.contender + "-" + std::to_string(s);
      run.contender = one.contender;
      run.budget = "tokens";
      run.seed = static_cast<int64_t>(s) + 1;
      Evaluation& evaluation = run.evaluation.emplace();
      evaluation.loss_nats = one.losses[s];
      evaluation.accuracy = one.losses[s];
      evaluation.n_samples = static_cast<int64_t>(n_samples);
      evaluation.sample_targets.assign(n_samples, 10);
      evaluation.sample_nats.assign(n_samples, 10 * one.losses[s]);
    }
  }
  return results;
}

BudgetSummary summary_of(const ComparisonResults& results) { return summarise(results).at(0); }

using Names = std::vector<std::string>;

TEST(StatisticsTest, QuantilesOfStudentsTAreThoseOfTheTables) {
  // To the digits that tables print (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
  EXPECT_NEAR(t_quantile(0.95, 1), 12.706, 5e-4);
  EXPECT_NEAR(t_quantile(0.95, 2), 4.303, 5e-4);
  EXPECT_NEAR(t_quantile(0.95, 5), 2.571, 5e-4);
  EXPECT_NEAR(t_quantile(0.95, 30), 2.042, 5e-4);
  EXPECT_NEAR(t_quantile(0.99, 10), 3.169, 5e-4);
  EXPECT_NEAR(t_quantile(0.95, 1e6), 1.960, 5e-4);
  // Closed forms: Cauchy's distribution, and that of two degrees of freedom.
  EXPECT_NEAR(t_quantile(0.95, 1), std::tan(0.475 * M_PI), 1e-9);
  EXPECT_NEAR(t_quantile(0.95, 2), 0.95 * std::sqrt(2 / (1 - 0.95 * 0.95)), 1e-12);
}

TEST(StatisticsTest, AllContendersOfABudgetShareOneSpreadOfSeeds) {
  const auto results = made({{"a", {1.0, 1.2}}, {"b", {1.5, 1.5}}});
  const BudgetSummary budget = summary_of(results);
  // Squares 0.01 + 0.01 over 2 degrees of freedom.
  EXPECT_EQ(budget.dof, 2);
  EXPECT_NEAR(*budget.seed_deviation, 0.1, 1e-12);
  EXPECT_NEAR(*budget.contenders[0].mean, 1.1, 1e-12);
  EXPECT_NEAR(*budget.contenders[0].half_width, 4.302653 * 0.1 / std::sqrt(2), 1e-6);
  EXPECT_NEAR(*budget.contenders[1].half_width, *budget.contenders[0].half_width, 1e-15);
  const Difference& pair = budget.differences.at(0);
  EXPECT_NEAR(pair.difference, -0.4, 1e-12);
  EXPECT_NEAR(pair.interval->high, -0.4 + 4.302653 * 0.1, 1e-6);
  EXPECT_EQ(budget.leaders, Names{"a"});
  EXPECT_EQ(budget.indistinguishable, Names{"b"});
  EXPECT_FALSE(budget.is_decided());
}

TEST(StatisticsTest, ADifferenceBeyondItsIntervalDecides) {
  const BudgetSummary budget =
      summary_of(made({{"b", {1.50, 1.51}}, {"a", {1.00, 1.01}}, {"c", {1.00, 1.02}}}));
  EXPECT_EQ(budget.leaders, Names{"a"});
  EXPECT_EQ(budget.indistinguishable, Names{"c"});
  const BudgetSummary clear = summary_of(made({{"b", {1.50, 1.51}}, {"a", {1.00, 1.01}}}));
  EXPECT_TRUE(clear.is_decided());
}

TEST(StatisticsTest, ThePairedErrorOfARatioWeighsSamplesByTheirTargets) {
  // ratio 1.0 / 4; residuals -0.15 and 0.15; 2 / 1 * 0.045 / 16 = 0.005625.
  const RatioEstimate estimate = paired_ratio({0.1, 0.9}, {1, 3});
  EXPECT_NEAR(estimate.ratio, 0.25, 1e-12);
  EXPECT_NEAR(*estimate.standard_error, 0.075, 1e-12);
  EXPECT_FALSE(paired_ratio({0.1}, {1}).standard_error);
}

TEST(StatisticsTest, WhatIsHardForAllContendersIsNoNoiseOfADifference) {
  auto results = made({{"a", {1.0, 1.01}}, {"b", {1.5, 1.51}}});
  for (RunResult& run : results.runs) run.evaluation->sample_nats = {0, 0, 0, 50};
  for (RunResult& run : results.runs)
    for (double& nats : run.evaluation->sample_nats) nats += 10 * run.evaluation->loss_nats;
  EXPECT_TRUE(summary_of(results).is_decided());
  results.runs[0].evaluation->sample_nats = {0, 0, 0, 90};  // hard for one of them alone
  EXPECT_FALSE(summary_of(results).is_decided());
}

TEST(StatisticsTest, OneSeedGivesNoIntervalAndNoDecision) {
  const BudgetSummary budget = summary_of(made({{"a", {1.0}}, {"b", {9.0}}}));
  EXPECT_EQ(budget.dof, 0);
  EXPECT_FALSE(budget.seed_deviation);
  EXPECT_FALSE(budget.contenders[0].half_width);
  EXPECT_FALSE(budget.differences.at(0).interval);
  EXPECT_EQ(budget.leaders, Names{"a"});
  EXPECT_EQ(budget.indistinguishable, Names{"b"});
  EXPECT_FALSE(budget.is_decided());
}

TEST(StatisticsTest, EqualAccuraciesAllLead) {
  auto results = made({{"a", {1.0, 1.0}}, {"b", {0.5, 0.5}}, {"c", {1.0, 1.0}}}, 1000);
  results.task = "mqar";
  const BudgetSummary budget = summary_of(results);
  EXPECT_EQ(budget.leaders, (Names{"a", "c"}));
  EXPECT_TRUE(budget.indistinguishable.empty());
  EXPECT_FALSE(budget.is_decided());
}

TEST(StatisticsTest, OfATaskTheHighestAccuracyWins) {
  auto results = made({{"a", {0.90, 0.92}}, {"b", {0.50, 0.52}}}, 1000);
  results.task = "mqar";
  const BudgetSummary budget = summary_of(results);
  EXPECT_EQ(budget.leaders, Names{"a"});
  EXPECT_TRUE(budget.is_decided());
  // s^2 = 0.0002; samples: 0.91 * 0.09 / 1000 + 0.51 * 0.49 / 1000.
  const double error = std::sqrt(0.0002 + (0.91 * 0.09 + 0.51 * 0.49) / 1000);
  EXPECT_NEAR(budget.differences.at(0).interval->low, 0.4 - 4.302653 * error, 1e-6);
}

TEST(StatisticsTest, AccuraciesThatAreKeptPerSampleAreComparedSampleBySample) {
  auto results = made({{"a", {0.75, 0.75}}, {"b", {0.5, 0.5}}});
  results.task = "mqar";
  for (RunResult& run : results.runs) run.evaluation->sample_right = {10, 10, 10, 0};
  for (const size_t of_b : {2, 3}) results.runs[of_b].evaluation->sample_right = {8, 6, 6, 0};
  // Differences 2, 4, 4, 0 of 10 targets each: ratio 0.25, residuals -0.5, 1.5, 1.5, -2.5;
  // 4 / 3 * 11 / 1600 = 0.0091667. Seeds do not differ.
  const Difference pair = summary_of(results).differences.at(0);
  EXPECT_NEAR(pair.difference, 0.25, 1e-12);
  EXPECT_NEAR(pair.interval->high, 0.25 + 4.302653 * std::sqrt(4.0 / 3 * 11 / 1600), 1e-6);
}

TEST(StatisticsTest, AContenderWithAFailedRunIsNotRanked) {
  auto results = made({{"a", {1.0, 1.1}}, {"b", {1.5, 1.6}}});
  results.runs[1].evaluation.reset();
  results.runs[1].failed = "diverged";
  const BudgetSummary budget = summary_of(results);
  EXPECT_EQ(budget.leaders, Names{"b"});
  EXPECT_EQ(budget.contenders.back().not_ranked, "1 of 2 runs failed");
  EXPECT_TRUE(budget.differences.empty());
}

TEST(StatisticsTest, AContenderWhoseEveryRateFailedIsNotRanked) {
  auto results = made({{"a", {1.0, 1.1}}, {"b", {}}});
  results.contenders[1].best_lr.reset();
  results.contenders[1].grid.clear();
  for (const double lr : {0.1, 0.2}) {
    GridPoint point;
    point.lr = lr, point.failed = "diverged";
    results.contenders[1].grid.push_back(point);
  }
  const BudgetSummary budget = summary_of(results);
  EXPECT_EQ(budget.leaders, Names{"a"});
  EXPECT_EQ(budget.contenders[1].not_ranked, "every learning rate failed");
  // In a report before the end a rate may still be to come.
  results.contenders[1].grid[1].failed.reset();
  EXPECT_EQ(summary_of(results).contenders[1].not_ranked, "not run");
}

TEST(StatisticsTest, RunsOfTheGridAreNotJudged) {
  auto results = made({{"a", {1.0, 1.1, 0.2}}, {"b", {1.5, 1.6}}});
  results.runs[2].grid_only = true;
  EXPECT_NEAR(*summary_of(results).contenders[0].mean, 1.05, 1e-12);
}

TEST(StatisticsTest, TheBaselinesTokensRunsStandForTheBudgetsThatItSets) {
  auto results = made({{"a", {1.0, 1.1}}, {"b", {1.5, 1.6}}});
  results.budgets = {"tokens", "flops"};
  const auto budgets = summarise(results);
  EXPECT_NEAR(budgets.at(1).contenders.at(0).mean.value(), 1.05, 1e-12);
  EXPECT_EQ(budgets.at(1).contenders.at(1).not_ranked, "not run");
}

TEST(StatisticsTest, RunsEvaluatedOnDifferentSamplesAreRefused) {
  auto results = made({{"a", {1.0, 1.1}}, {"b", {1.5, 1.6}}});
  results.runs[3].evaluation->sample_targets = {10, 10, 10};
  results.runs[3].evaluation->sample_nats = {10, 10, 10};
  expect_error([&] { summarise(results); },
               "runs a-0 and b-1 were evaluated on different samples (4 and 3, or of other "
               "lengths); evaluate both on the same data, context and number of samples");
  results.runs[3].evaluation->sample_targets.clear();
  results.runs[3].evaluation->sample_nats.clear();
  expect_error([&] { summarise(results); },
               "run b-1: evaluation has no sample_nats, which differences are taken of");
}

struct Coverage {
  double of_means, of_differences;
};

// How often the intervals hold the truth, over 2,000 comparisons of 4 contenders, 3 seeds and 40
// samples of 5 to 24 targets.
Coverage simulate(double seed_noise, double sample_noise) {
  const RandomStream random(7, "test/coverage");
  uint64_t index = 0;
  const auto normal = [&] { return random.normal(index++); };
  constexpr int kRepeats = 2000;
  const std::vector<double> truth = {3.0, 3.1, 3.1, 3.4};
  const std::vector<std::string> names = {"a", "b", "c", "d"};
  int means = 0, means_held = 0, pairs = 0, pairs_held = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    ComparisonResults results =
        made({{"a", {0, 0, 0}}, {"b", {0, 0, 0}}, {"c", {0, 0, 0}}, {"d", {0, 0, 0}}}, 40);
    std::vector<std::vector<double>> hard(4, std::vector<double>(40));  // by contender, by sample
    std::vector<int64_t> targets(40);
    for (size_t i = 0; i < 40; ++i) {
      targets[i] = 5 + static_cast<int64_t>(random.bits(index++) % 20);
      const double shared = normal();
      for (auto& of_contender : hard) of_contender[i] = shared + sample_noise * normal();
    }
    for (size_t r = 0; r < results.runs.size(); ++r) {
      Evaluation& evaluation = *results.runs[r].evaluation;
      evaluation.sample_targets = targets;
      const double level = truth[r / 3] + seed_noise * normal();
      double sum = 0, total = 0;
      for (size_t i = 0; i < 40; ++i) {
        const auto weight = static_cast<double>(targets[i]);
        evaluation.sample_nats[i] = weight * (level + hard[r / 3][i]);
        sum += evaluation.sample_nats[i], total += weight;
      }
      evaluation.loss_nats = sum / total;
    }
    const BudgetSummary budget = summary_of(results);
    const auto true_mean = [&](const std::string& name) {
      return truth[static_cast<size_t>(name[0] - 'a')];
    };
    for (const ContenderSummary& contender : budget.contenders) {
      // On these samples: their hardness is part of the truth.
      const auto c = static_cast<size_t>(contender.contender[0] - 'a');
      double sum = 0, total = 0;
      for (size_t i = 0; i < 40; ++i) {
        sum += static_cast<double>(targets[i]) * hard[c][i];
        total += static_cast<double>(targets[i]);
      }
      ++means;
      means_held += std::abs(*contender.mean - (truth[c] + sum / total)) <= *contender.half_width;
    }
    for (const Difference& pair : budget.differences) {
      const double difference = true_mean(pair.a) - true_mean(pair.b);
      ++pairs;
      pairs_held += pair.interval->low <= difference && difference <= pair.interval->high;
    }
  }
  return {1.0 * means_held / means, 1.0 * pairs_held / pairs};
}

TEST(StatisticsTest, IntervalsHoldTheTruthNineteenTimesInTwenty) {
  // 2,000 repeats: a share of 95 % has a standard error below 0.5 %.
  const Coverage seeds = simulate(/*seed_noise=*/0.02, /*sample_noise=*/0.01);
  EXPECT_NEAR(seeds.of_means, 0.95, 0.02);
  EXPECT_NEAR(seeds.of_differences, 0.95, 0.02);
  // Where samples are the larger noise, t of the seeds' few degrees of freedom is too wide, as the
  // header says.
  const Coverage samples = simulate(/*seed_noise=*/0.002, /*sample_noise=*/0.05);
  EXPECT_NEAR(samples.of_means, 0.95, 0.02);
  EXPECT_GE(samples.of_differences, 0.94);
}

}  // namespace
}  // namespace ceiling
