// The tables of the report.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "train/compare/report_content.h"

namespace ceiling {

namespace {

const std::string kNotMeasured = "–";

Cell cell(std::string text, bool strong = false) { return {std::move(text), strong}; }

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// "loss" with its unit.
std::string metric_column(const ComparisonResults& results) {
  return results.task.empty() ? "loss (nats)" : "accuracy";
}

// The difference of `name` to `other`, whichever of the two it was taken from.
std::string difference_text(const ComparisonResults& results, const BudgetSummary& budget,
                            const std::string& name, const std::string& other) {
  for (const Difference& pair : budget.differences) {
    if (!(pair.a == name && pair.b == other) && !(pair.a == other && pair.b == name)) continue;
    const double sign = pair.a == name ? 1 : -1;
    const std::string text = metric_difference_text(results, sign * pair.difference);
    if (!pair.interval) return text;
    const double half_width = (pair.interval->high - pair.interval->low) / 2;
    return results.task.empty() ? fmt::format("{} ± {:.4f}", text, half_width)
                                : fmt::format("{:+.2f} ± {:.2f} points",
                                              100 * sign * pair.difference, 100 * half_width);
  }
  return kNotMeasured;
}

// An accuracy ends at 0 and 100 %.
std::string interval_text(const ComparisonResults& results, double mean, double half_width) {
  double low = mean - half_width, high = mean + half_width;
  if (!results.task.empty()) low = std::max(low, 0.0), high = std::min(high, 1.0);
  return metric_text(results, low) + " to " + metric_text(results, high);
}

double mean_over(const std::vector<const RunResult*>& runs,
                 const std::function<double(const RunResult&)>& value) {
  double sum = 0;
  for (const RunResult* run : runs) sum += value(*run);
  return sum / static_cast<double>(runs.size());
}

std::string optional_text(const std::optional<double>& value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : kNotMeasured;
}

// What no contender has a value of is not a column.
Table without_empty_columns(Table table) {
  for (size_t column = table.columns.size(); column-- > 1;) {
    const bool is_empty =
        std::all_of(table.rows.begin(), table.rows.end(),
                    [&](const std::vector<Cell>& row) { return row[column].text == kNotMeasured; });
    if (!is_empty) continue;
    const auto at = static_cast<std::ptrdiff_t>(column);
    table.columns.erase(table.columns.begin() + at);
    for (auto& row : table.rows) row.erase(row.begin() + at);
  }
  return table;
}

// A row per contender and a column per key that any contender has a value of.
template <class Key>
Table by_key(const ComparisonResults& results, const std::string& title,
             const std::function<std::map<Key, std::string>(const Contender&)>& values,
             const std::function<std::string(const Key&)>& column) {
  std::set<Key> keys;
  for (const Contender& contender : results.contenders)
    for (const auto& [key, text] : values(contender)) keys.insert(key);
  Table table{.title = title, .columns = {"contender"}, .rows = {}, .notes = {}};
  for (const Key& key : keys) table.columns.push_back(column(key));
  for (const Contender& contender : results.contenders) {
    const std::map<Key, std::string> texts = values(contender);
    auto& row = table.rows.emplace_back();
    row.push_back(cell(contender.name));
    for (const Key& key : keys)
      row.push_back(cell(texts.contains(key) ? texts.at(key) : kNotMeasured));
  }
  return table;
}

Table contenders_table(const ComparisonResults& results, const BudgetSummary& tokens) {
  int64_t context = results.context.value_or(0);
  if (!results.context)  // of an older version: as was the least that was measured
    for (const TrainingSpeed& speed : results.contender(results.baseline).training_speed)
      context = context == 0 ? speed.context : std::min(context, speed.context);
  Table table{
      .title = "Contenders",
      .columns = {"contender", "parameters", "off by", "without embedding", "FLOPs per token",
                  "best rate", metric_column(results), "bits per byte", "training tok/s", "memory"},
      .rows = {},
      .notes = {}};
  for (const Contender& contender : results.contenders) {
    const auto summary =
        std::find_if(tokens.contenders.begin(), tokens.contenders.end(),
                     [&](const ContenderSummary& s) { return s.contender == contender.name; });
    const auto speed =
        std::find_if(contender.training_speed.begin(), contender.training_speed.end(),
                     [&](const TrainingSpeed& s) { return s.context == context; });
    const bool is_timed = speed != contender.training_speed.end();
    table.rows.push_back(
        {cell(contender.name), cell(format_thousands(contender.parameters)),
         cell(fmt::format("{:+.2f} %", 100 * contender.match_error)),
         cell(format_thousands(contender.non_embedding_parameters)),
         cell(format_count(contender.training_flops_per_token)),
         cell(contender.best_lr               ? format_double(*contender.best_lr)
              : contender.every_rate_failed() ? "all failed"
                                              : "none yet"),
         cell(summary->mean ? metric_text(results, *summary->mean) : kNotMeasured,
              has(tokens.leaders, contender.name)),
         cell(optional_text(summary->bits_per_byte, "{:.4f}")),
         cell(is_timed ? format_thousands(std::llround(speed->tokens_per_s)) : kNotMeasured),
         cell(is_timed && speed->peak_bytes ? format_bytes(*speed->peak_bytes) : kNotMeasured)});
  }
  table.notes.push_back(
      fmt::format("{} with the same tokens{}.",
                  results.task.empty() ? "Loss and bits per byte are those" : "Accuracy is that",
                  context ? fmt::format("; tok/s and memory are of training at context {}",
                                        format_thousands(context))
                          : ""));
  return without_empty_columns(std::move(table));
}

Table models_table(const ComparisonResults& results) {
  Table table{.title = "Models",
              .columns = {"contender", "architecture", "model"},
              .rows = {},
              .notes = {},
              .has_text = true};
  for (const Contender& contender : results.contenders)
    table.rows.push_back(
        {cell(contender.name), cell(contender.architecture), cell(contender.model_yaml)});
  return table;
}

Table rates_table(const ComparisonResults& results) {
  const auto loss = [&](const GridPoint& point) {
    return results.task.empty() ? point.loss_nats : point.accuracy;
  };
  std::set<double> rates;
  for (const Contender& contender : results.contenders)
    for (const GridPoint& point : contender.grid) rates.insert(point.lr);
  Table table{.title = "Learning rates: " + metric_column(results),
              .columns = {"contender"},
              .rows = {},
              .notes = {}};
  if (rates.empty()) return table;
  for (const double rate : rates) table.columns.push_back(format_double(rate));
  std::map<std::string, std::vector<std::string>> failures;  // by reason
  bool any_edge = false;
  for (const Contender& contender : results.contenders) {
    auto& row = table.rows.emplace_back();
    row.push_back(cell(contender.name));
    std::map<double, const GridPoint*> points;
    for (const GridPoint& point : contender.grid) points[point.lr] = &point;
    for (const double rate : rates) {
      const GridPoint* point = points.contains(rate) ? points.at(rate) : nullptr;
      if (point == nullptr) {
        row.push_back(cell(kNotMeasured));
      } else if (point->failed) {
        row.push_back(cell("failed"));
        failures[*point->failed].push_back(contender.name + " at " + format_double(rate));
      } else {
        const bool is_best = contender.best_lr == rate;
        const bool is_edge = is_best && points.size() > 1 &&
                             (rate == points.begin()->first || rate == points.rbegin()->first);
        any_edge |= is_edge;
        const std::string text = loss(*point) ? metric_text(results, *loss(*point)) : kNotMeasured;
        row.push_back(cell(text + (is_edge ? " (edge)" : ""), is_best));
      }
    }
  }
  table.notes.push_back("The best rate of each contender is bold." +
                        std::string(any_edge ? " (edge): it is the lowest or the highest that was "
                                               "tried, so a better one may lie beyond."
                                             : ""));
  for (const auto& [reason, where] : failures)
    table.notes.push_back(fmt::format("Failed: {}: {}.", listed(where), reason));
  return table;
}

struct Probe {
  std::string name;
  int64_t context;
  auto operator<=>(const Probe&) const = default;
};

Table recall_table(const ComparisonResults& results) {
  std::map<Probe, double> chance;
  Table table = by_key<Probe>(
      results, "Recall: accuracy",
      [&](const Contender& contender) {
        std::map<Probe, std::vector<double>> accuracies;  // over seeds
        for (const RunResult* run : judged_runs(results, "tokens", contender.name))
          if (run->evaluation)
            for (const RecallResult& recall : run->evaluation->recall) {
              accuracies[{recall.probe, recall.context}].push_back(recall.accuracy);
              chance[{recall.probe, recall.context}] = recall.chance;
            }
        std::map<Probe, std::string> texts;
        for (const auto& [probe, values] : accuracies) {
          double sum = 0;
          for (const double value : values) sum += value;
          texts[probe] = fmt::format("{:.1f} %", 100 * sum / static_cast<double>(values.size()));
        }
        return texts;
      },
      [](const Probe& probe) {
        return fmt::format("{}, {}", probe.name, format_thousands(probe.context));
      });
  if (chance.empty()) return table;
  auto& row = table.rows.emplace_back();
  row.push_back(cell("a guess"));
  for (const auto& [probe, accuracy] : chance)
    row.push_back(cell(fmt::format("{:.2f} %", 100 * accuracy)));
  table.notes.push_back(
      "Mean over seeds, with the same tokens. Columns: the probe and its context.");
  return table;
}

std::string length_text(const int64_t& length) { return format_thousands(length); }

struct BatchAndLength {
  int64_t batch, length;
  auto operator<=>(const BatchAndLength&) const = default;
};

}  // namespace

Table answer_table(const ComparisonResults& results, const std::vector<BudgetSummary>& budgets) {
  Table table{.title = "Answer",
              .columns = {"budget", "best", metric_column(results), "95 % interval",
                          "not distinguishable from it"},
              .rows = {},
              .notes = {},
              .has_text = true};
  for (const BudgetSummary& budget : budgets) {
    auto& row = table.rows.emplace_back();
    row.push_back(cell(budget_text(results, budget.budget)));
    if (budget.leaders.empty()) {
      row.insert(row.end(), {cell("none finished"), cell(kNotMeasured), cell(kNotMeasured),
                             cell(kNotMeasured)});
      continue;
    }
    const ContenderSummary& best = budget.contenders.front();
    row.push_back(
        cell(listed(budget.leaders) + (budget.leaders.size() > 1 ? " (equal)" : ""), true));
    row.push_back(cell(metric_text(results, *best.mean)));
    row.push_back(cell(best.half_width ? interval_text(results, *best.mean, *best.half_width)
                                       : "one seed: no interval"));
    row.push_back(cell(budget.dof == 0                    ? "one seed: cannot be told"
                       : budget.indistinguishable.empty() ? "none"
                                                          : listed(budget.indistinguishable)));
  }
  return table;
}

Table budget_table(const ComparisonResults& results, const BudgetSummary& budget) {
  std::string title = budget_text(results, budget.budget);
  title[0] = 'S';
  Table table{.title = title,
              .columns = {"contender", metric_column(results), "bits per byte", "to the best",
                          "to " + results.baseline, "tokens", "FLOPs", "time", "seeds"},
              .rows = {},
              .notes = {}};
  for (const ContenderSummary& contender : budget.contenders) {
    const std::string& name = contender.contender;
    auto& row = table.rows.emplace_back();
    const bool leads = has(budget.leaders, name);
    row.push_back(cell(name, leads));
    if (contender.runs.empty()) {
      row.push_back(cell(contender.not_ranked));
      for (size_t i = row.size(); i < table.columns.size(); ++i) row.push_back(cell(kNotMeasured));
      continue;
    }
    row.push_back(cell(metric_with_error(results, *contender.mean, contender.half_width), leads));
    row.push_back(cell(optional_text(contender.bits_per_byte, "{:.4f}")));
    const bool is_ranked = contender.not_ranked.empty();
    row.push_back(cell(leads || budget.leaders.empty()
                           ? (leads ? "best" : kNotMeasured)
                           : difference_text(results, budget, name, budget.leaders.front())));
    row.push_back(cell(name == results.baseline
                           ? "baseline"
                           : difference_text(results, budget, name, results.baseline)));
    const auto mean = [&](const std::function<double(const RunResult&)>& value) {
      return mean_over(contender.runs, value);
    };
    row.push_back(cell(format_count(mean([](const RunResult& run) { return run.tokens; }))));
    row.push_back(
        cell(format_count(mean([](const RunResult& run) { return run.training_flops; }))));
    row.push_back(cell(format_duration(mean([](const RunResult& run) { return run.seconds; }))));
    row.push_back(cell(is_ranked ? std::to_string(contender.runs.size()) : contender.not_ranked));
  }
  if (budget.dof == 0)
    table.notes.push_back("One seed: no interval.");
  else
    table.notes.push_back(
        "± is half of the 95 % interval. A difference that is smaller than its "
        "own ± is not distinguishable from none.");
  return without_empty_columns(std::move(table));
}

std::vector<Table> detail_tables(const ComparisonResults& results,
                                 const std::vector<BudgetSummary>& budgets) {
  const auto tokens = std::find_if(budgets.begin(), budgets.end(), [](const BudgetSummary& budget) {
    return budget.budget == "tokens";
  });
  std::vector<Table> tables = {contenders_table(results, *tokens)};
  const auto add = [&](Table table) {
    if (table.columns.size() > 1) tables.push_back(std::move(table));
  };
  add(recall_table(results));
  add(rates_table(results));
  add(by_key<int64_t>(
      results, "Training tok/s by context",
      [](const Contender& contender) {
        std::map<int64_t, std::string> texts;
        for (const TrainingSpeed& speed : contender.training_speed)
          texts[speed.context] = format_thousands(std::llround(speed.tokens_per_s));
        return texts;
      },
      length_text));
  add(by_key<BatchAndLength>(
      results, "Decoding tok/s by batch × length",
      [](const Contender& contender) {
        std::map<BatchAndLength, std::string> texts;
        for (const DecodingSpeed& speed : contender.decoding)
          texts[{speed.batch, speed.length}] = format_thousands(std::llround(speed.tokens_per_s));
        return texts;
      },
      [](const BatchAndLength& key) {
        return fmt::format("{} × {}", key.batch, format_thousands(key.length));
      }));
  add(by_key<int64_t>(
      results, "State of one sequence by length",
      [](const Contender& contender) {
        std::map<int64_t, std::string> texts;
        for (const StateSize& state : contender.state_bytes)
          texts[state.length] = format_bytes(state.bytes);
        return texts;
      },
      length_text));
  add(models_table(results));
  return tables;
}

ReportContent report_content(const ComparisonResults& results,
                             const std::vector<BudgetSummary>& budgets) {
  ReportContent content;
  content.title = results.title.empty() ? "A comparison of architectures" : results.title;
  std::vector<std::string> facts;
  for (const std::string& fact : {results.date, results.device}) facts.push_back(fact);
  facts.push_back("ceiling " + results.versions.ceiling);
  facts.push_back("torch " + results.versions.torch);
  std::erase(facts, "");
  content.subtitle = join(facts, " · ");
  content.marks = results.marks;
  content.verdict = verdict_of(budgets);
  content.answer = answer_table(results, budgets);
  for (const BudgetSummary& budget : budgets) {
    content.answers.push_back(answer_sentence(results, budget));
    content.budgets.push_back(budget_table(results, budget));
  }
  content.details = detail_tables(results, budgets);
  content.contract = {.title = "What was equal",
                      .columns = {"what", "value"},
                      .rows = {},
                      .notes = {},
                      .has_text = true};
  for (const NamedValue& item : results.contract)
    content.contract.rows.push_back({cell(item.name), cell(item.value)});
  content.method = method_text(results, budgets);
  content.limits = limits_of(results, budgets);
  content.command = results.command;
  return content;
}

}  // namespace ceiling
