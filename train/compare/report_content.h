// What the report says, in words and tables, before it is Markdown or HTML: both say the same.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "train/compare/results.h"
#include "train/compare/statistics.h"

namespace ceiling {

struct Cell {
  std::string text;
  bool strong = false;
};

struct Table {
  std::string title;
  std::vector<std::string> columns;     // the first holds names, the others numbers
  std::vector<std::vector<Cell>> rows;  // each as long as columns
  std::vector<std::string> notes;       // below it
  bool has_text = false;                // its other columns hold words too
};

struct ReportContent {
  std::string title, subtitle;       // the subtitle: date, device, versions
  std::vector<std::string> marks;    // what a reader must know first
  std::string verdict;               // one sentence
  Table answer;                      // budget x winner
  std::vector<std::string> answers;  // a sentence per budget
  std::vector<Table> budgets;        // every contender at each budget
  std::vector<Table>
      details;  // contenders, recall, learning rates, speeds, state; those that were measured
  Table contract;
  std::string method;               // how the intervals are made
  std::vector<std::string> limits;  // what the comparison cannot show
  std::string command;
};

ReportContent report_content(const ComparisonResults& results,
                             const std::vector<BudgetSummary>& budgets);

// Parts of it.
std::string verdict_of(const std::vector<BudgetSummary>& budgets);
std::string answer_sentence(const ComparisonResults& results, const BudgetSummary& budget);
std::string method_text(const ComparisonResults& results,
                        const std::vector<BudgetSummary>& budgets);
std::vector<std::string> limits_of(const ComparisonResults& results,
                                   const std::vector<BudgetSummary>& budgets);
Table answer_table(const ComparisonResults& results, const std::vector<BudgetSummary>& budgets);
Table budget_table(const ComparisonResults& results, const BudgetSummary& budget);
std::vector<Table> detail_tables(const ComparisonResults& results,
                                 const std::vector<BudgetSummary>& budgets);

// "3.4251", or of a task "99.12 %"; with a sign: "+0.0045", "-1.20 points".
std::string metric_text(const ComparisonResults& results, double value);
std::string metric_difference_text(const ComparisonResults& results, double value);
// "3.4251 ± 0.0031", or the value alone.
std::string metric_with_error(const ComparisonResults& results, double value,
                              const std::optional<double>& half_width);
// "same tokens (3.3 M)", from the baseline's runs.
std::string budget_text(const ComparisonResults& results, const std::string& budget);
// "a", "a and b", "a, b and c".
std::string listed(const std::vector<std::string>& names);

}  // namespace ceiling
