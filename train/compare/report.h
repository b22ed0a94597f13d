// The report of a comparison: report.md to read anywhere, and report.html with charts, in one file
// that needs no network.
#pragma once
#include <string>

#include "train/compare/report_content.h"
#include "train/compare/results.h"

namespace ceiling {

// Writes DIR/report.md and DIR/report.html, each wholly or not at all. Error as summarise() and
// check_results() say.
void write_report(const ComparisonResults& results, const std::string& dir);

std::string report_markdown(const ReportContent& content);

// `page` is what the charts draw (page_json). Every text of the results is escaped.
std::string report_html(const ReportContent& content, const nlohmann::ordered_json& page);

// {"results": as results_json, but without what is per sample, and training curves
// thinned to at most `max_points` means of neighbours; "summary": means, intervals and leaders of
// each budget}.
nlohmann::ordered_json page_json(const ComparisonResults& results,
                                 const std::vector<BudgetSummary>& budgets,
                                 size_t max_points = 500);

}  // namespace ceiling
