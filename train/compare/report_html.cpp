#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/files.h"
#include "report_page.h"  // written by CMake from page.html, page.css, chart.js and page.js
#include "train/compare/report.h"

namespace ceiling {

namespace {

using nlohmann::ordered_json;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

// JSON that ends no script element, whatever its texts hold.
std::string script_json(const ordered_json& json) {
  std::string out;
  for (const char c : json.dump(-1, ' ', false, ordered_json::error_handler_t::replace)) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

std::string paragraphs(const std::vector<std::string>& texts, const char* tag) {
  std::string html;
  for (const std::string& text : texts)
    html += fmt::format("<{}>{}</{}>\n", tag, escaped(text), tag);
  return html;
}

std::string table_html(const Table& table) {
  std::string html = fmt::format("<div class=\"scroll\"><table{}>\n<thead><tr>",
                                 table.has_text ? " class=\"words\"" : "");
  for (const std::string& column : table.columns)
    html += "<th scope=\"col\">" + escaped(column) + "</th>";
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string text = escaped(row[i].text);
      const std::string inner = row[i].strong ? "<strong>" + text + "</strong>" : text;
      html += i == 0 ? "<th scope=\"row\">" + inner + "</th>" : "<td>" + inner + "</td>";
    }
    html += "</tr>\n";
  }
  html += "</tbody></table></div>\n";
  for (const std::string& note : table.notes)
    html += "<p class=\"note\">" + escaped(note) + "</p>\n";
  return html;
}

std::string section_html(const Table& table) {
  return "<section><h3>" + escaped(table.title) + "</h3>\n" + table_html(table) + "</section>\n";
}

// Replaces each {{name}} of the page once: what is filled in is not looked at again.
std::string filled(std::string_view page, const std::map<std::string, std::string>& values) {
  std::string out;
  for (size_t at = 0; at < page.size();) {
    const size_t open = page.find("{{", at), close = page.find("}}", open);
    if (close == std::string_view::npos) return out.append(page.substr(at));
    out.append(page.substr(at, open - at));
    out += values.at(std::string(page.substr(open + 2, close - open - 2)));
    at = close + 2;
  }
  return out;
}

std::vector<CurvePoint> thinned(const std::vector<CurvePoint>& curve, size_t max_points) {
  if (curve.size() <= max_points) return curve;
  std::vector<CurvePoint> few;
  for (size_t i = 0; i < max_points; ++i) {
    const size_t first = i * curve.size() / max_points;
    const size_t end = (i + 1) * curve.size() / max_points;
    double sum = 0;
    for (size_t k = first; k < end; ++k) sum += curve[k].loss;
    few.push_back({curve[end - 1].tokens, sum / static_cast<double>(end - first), {}});
  }
  return few;
}

ordered_json summary_json(const BudgetSummary& budget) {
  ordered_json contenders = ordered_json::array();
  for (const ContenderSummary& contender : budget.contenders) {
    ordered_json one = {{"name", contender.contender}};
    if (contender.mean) one["mean"] = *contender.mean;
    if (contender.half_width) one["half_width"] = *contender.half_width;
    if (!contender.not_ranked.empty()) one["not_ranked"] = contender.not_ranked;
    ordered_json& runs = one["runs"] = ordered_json::array();
    for (const RunResult* run : contender.runs) runs.push_back(run->name);
    contenders.push_back(std::move(one));
  }
  return {{"budget", budget.budget},
          {"contenders", std::move(contenders)},
          {"leaders", budget.leaders},
          {"indistinguishable", budget.indistinguishable},
          {"has_intervals", budget.dof > 0}};
}

}  // namespace

ordered_json page_json(const ComparisonResults& results, const std::vector<BudgetSummary>& budgets,
                       size_t max_points) {
  ComparisonResults few = results;
  for (RunResult& run : few.runs) {
    run.train_curve = thinned(run.train_curve, max_points);
    if (!run.evaluation) continue;
    run.evaluation->sample_nats.clear();
    run.evaluation->sample_targets.clear();
    run.evaluation->sample_right.clear();
  }
  ordered_json summary = ordered_json::array();
  for (const BudgetSummary& budget : budgets) {
    summary.push_back(summary_json(budget));
    summary.back()["title"] = budget_text(results, budget.budget);
  }
  return {{"results", results_json(few)}, {"summary", std::move(summary)}};
}

std::string report_html(const ReportContent& content, const ordered_json& page) {
  std::string budgets, details;
  for (const Table& table : content.budgets) budgets += section_html(table);
  for (const Table& table : content.details) details += section_html(table);
  const std::string marks = content.marks.empty()
                                ? ""
                                : "<aside class=\"marks\"><h2>Read this first</h2><ul>\n" +
                                      paragraphs(content.marks, "li") + "</ul></aside>\n";
  const std::string contract =
      content.contract.rows.empty()
          ? ""
          : "<h2>" + escaped(content.contract.title) + "</h2>\n" + table_html(content.contract);
  return filled(kReport_page_html, {{"title", escaped(content.title)},
                                    {"subtitle", escaped(content.subtitle)},
                                    {"css", kReport_page_css},
                                    {"verdict", escaped(content.verdict)},
                                    {"marks", marks},
                                    {"answer", table_html(content.answer)},
                                    {"answers", paragraphs(content.answers, "li")},
                                    {"budgets", budgets},
                                    {"details", details},
                                    {"contract", contract},
                                    {"method", escaped(content.method)},
                                    {"limits", paragraphs(content.limits, "li")},
                                    {"command", escaped(content.command)},
                                    {"json", script_json(page)},
                                    {"chart_js", kReport_chart_js},
                                    {"page_js", kReport_page_js}});
}

void write_report(const ComparisonResults& results, const std::string& dir) {
  check_results(results, "the results of the comparison");
  const std::vector<BudgetSummary> budgets = summarise(results);
  const ReportContent content = report_content(results, budgets);
  fs::create_directories(dir);
  write_file_atomic(dir + "/report.md", report_markdown(content));
  write_file_atomic(dir + "/report.html", report_html(content, page_json(results, budgets)));
}

}  // namespace ceiling
