#include "train/compare/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "tests/support/temp_dir.h"
#include "tests/train/compare/synthetic_results.h"

namespace ceiling {
namespace {

using nlohmann::json;

std::string markdown_of(const ComparisonResults& results) {
  return report_markdown(report_content(results, summarise(results)));
}
std::string html_of(const ComparisonResults& results) {
  const auto budgets = summarise(results);
  return report_html(report_content(results, budgets), page_json(results, budgets));
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "not found: " << part;
}
void expect_has_not(const std::string& text, const std::string& part) {
  EXPECT_EQ(text.find(part), std::string::npos) << "found: " << part;
}

std::string between(const std::string& text, const std::string& open, const std::string& close) {
  const size_t first = text.find(open) + open.size();
  return text.substr(first, text.find(close, first) - first);
}

// Losses alone.
ComparisonResults bare_results() {
  ComparisonResults results = synthetic_results();
  for (Contender& contender : results.contenders) {
    contender.decoding.clear(), contender.training_speed.clear(), contender.state_bytes.clear();
    contender.grid.clear();
  }
  for (RunResult& run : results.runs) {
    run.train_curve.clear(), run.eval_curve.clear();
    if (!run.evaluation) continue;
    run.evaluation->recall.clear(), run.evaluation->by_position.clear();
    run.evaluation->bits_per_byte.reset();
  }
  results.contract.clear(), results.marks.clear();
  return results;
}

const std::string kDataTag = "<script type=\"application/json\" id=\"data\">";

// CEILING_REPORT_DIR=folder keeps the reports there, to be looked at.
TEST(ReportTest, BothFilesAreWritten) {
  const TempDir dir;
  const char* keep = std::getenv("CEILING_REPORT_DIR");
  const std::string root = keep ? keep : dir.path();
  const std::pair<const char*, ComparisonResults> cases[] = {
      {"text", synthetic_results()},
      {"one-seed", synthetic_results({.seeds = 1, .task = ""})},
      {"task", synthetic_results({.seeds = 3, .task = "mqar"})},
      {"bare", bare_results()}};
  for (const auto& [name, results] : cases) {
    const std::string folder = root + "/" + name;
    write_report(results, folder);
    EXPECT_EQ(read_file(folder + "/report.md"), markdown_of(results));
    EXPECT_EQ(read_file(folder + "/report.html"), html_of(results));
  }
}

TEST(ReportTest, EveryMeanAndIntervalStandsInBothFiles) {
  const ComparisonResults results = synthetic_results();
  const std::string markdown = markdown_of(results), html = html_of(results);
  int n = 0;
  for (const BudgetSummary& budget : summarise(results))
    for (const ContenderSummary& contender : budget.contenders) {
      if (!contender.mean) continue;
      ++n;
      for (const std::string& text : {markdown, html}) {
        expect_has(text, fmt::format("{:.4f} ± {:.4f}", *contender.mean, *contender.half_width));
        expect_has(text, fmt::format("{:.4f}", *contender.bits_per_byte));
      }
    }
  EXPECT_EQ(n, 15);  // 5 contenders at 3 budgets
}

TEST(ReportTest, EveryMeasuredNumberOfAContenderStandsInBothFiles) {
  const ComparisonResults results = synthetic_results();
  const std::string markdown = markdown_of(results), html = html_of(results);
  for (const Contender& contender : results.contenders)
    for (const std::string& text : {markdown, html}) {
      expect_has(text, format_thousands(contender.parameters));
      for (const GridPoint& point : contender.grid)
        if (point.loss_nats) expect_has(text, fmt::format("{:.4f}", *point.loss_nats));
      for (const TrainingSpeed& speed : contender.training_speed)
        expect_has(text, format_thousands(std::llround(speed.tokens_per_s)));
      for (const DecodingSpeed& speed : contender.decoding)
        expect_has(text, format_thousands(std::llround(speed.tokens_per_s)));
      for (const StateSize& state : contender.state_bytes)
        expect_has(text, format_bytes(state.bytes));
    }
}

TEST(ReportTest, MarksFailuresContractAndCommandAreShown) {
  const ComparisonResults results = synthetic_results();
  for (const std::string& text : {markdown_of(results), html_of(results)}) {
    for (const std::string& mark : results.marks) expect_has(text, mark);
    for (const NamedValue& item : results.contract) expect_has(text, item.value);
    expect_has(text, results.command);
    expect_has(text, "every learning rate failed");
    expect_has(text, "loss is not finite at step 31");
    expect_has(text, "Recall was not measured for hawk and tern.");
    expect_has(text, "2.3 tokens per parameter; compute-optimal training uses about 20");
  }
  EXPECT_LT(markdown_of(results).find(results.marks[0]), markdown_of(results).find("| budget |"));
}

BudgetSummary led_by(const std::string& budget, std::vector<std::string> leaders,
                     std::vector<std::string> indistinguishable, double dof) {
  BudgetSummary summary;
  summary.budget = budget, summary.dof = dof;
  summary.leaders = std::move(leaders), summary.indistinguishable = std::move(indistinguishable);
  summary.differences.resize(1);
  return summary;
}

TEST(ReportTest, TheVerdictClaimsNoMoreThanTheIntervals) {
  const auto clear = [](const char* budget, const char* leader) {
    return led_by(budget, {leader}, {}, 4);
  };
  const auto unclear = [](const char* budget, const char* leader) {
    return led_by(budget, {leader}, {"c"}, 4);
  };
  EXPECT_EQ(verdict_of({clear("tokens", "a")}), "a is best.");
  EXPECT_EQ(verdict_of({clear("tokens", "a"), clear("time", "a")}), "a is best at every budget.");
  EXPECT_EQ(verdict_of({unclear("tokens", "a")}), "a is ahead. No lead is clear at 95 %.");
  EXPECT_EQ(verdict_of({clear("tokens", "a"), clear("flops", "a"), unclear("time", "a")}),
            "a is ahead at every budget. The lead is clear at 95 % only with the same tokens and "
            "FLOPs.");
  EXPECT_EQ(verdict_of({clear("tokens", "a"), clear("flops", "b"), clear("time", "a")}),
            "No single winner. Ahead: a with the same tokens and time; b with the same FLOPs.");
  EXPECT_EQ(verdict_of({led_by("tokens", {"a"}, {"b"}, 0)}),
            "a is ahead. One seed: no interval, so this may be chance.");
  EXPECT_EQ(verdict_of({led_by("tokens", {"a", "b"}, {}, 4)}), "a and b are equal and ahead.");
  EXPECT_EQ(verdict_of({led_by("tokens", {}, {}, 0)}), "No contender finished its runs.");
}

TEST(ReportTest, OneSeedNamesNoWinnerWithConfidence) {
  const std::string markdown = markdown_of(synthetic_results({.seeds = 1, .task = ""}));
  expect_has(markdown, "one seed: no interval");
  expect_has(markdown, "so this may be chance");
  expect_has_not(markdown, " is best: ");
  expect_has_not(markdown, "±");
}

TEST(ReportTest, OfATaskTheAccuracyIsReportedAndEqualOnesShareTheFirstPlace) {
  const std::string markdown = markdown_of(synthetic_results({.seeds = 2, .task = "mqar"}));
  expect_has(markdown, "**llama and griffin (equal)** | 100.00 % |");
  expect_has(markdown, "llama and griffin share the highest accuracy, 100.00 ±");
}

TEST(ReportTest, ThePageAsksTheNetworkForNothing) {
  const std::string html = html_of(synthetic_results());
  for (const char* reference : {"http:", "https:", "//www", "src=", "href=", "url(h", "@import",
                                "fetch(", "XMLHttpRequest", "import("})
    expect_has_not(html, reference);
}

TEST(ReportTest, TheDataOfThePageIsThatOfTheResults) {
  const ComparisonResults results = synthetic_results();
  json expected = results_json(results);
  for (json& run : expected["runs"])
    for (const char* key : {"sample_nats", "sample_targets"})
      if (run.contains("evaluation")) run["evaluation"][key] = json::array();
  const json page = json::parse(between(html_of(results), kDataTag, "</script>"));
  EXPECT_EQ(page["results"], expected);
  EXPECT_EQ(page["summary"].size(), 3u);
}

TEST(ReportTest, LongCurvesAreThinnedToMeansOfNeighbours) {
  ComparisonResults results = synthetic_results();
  auto& curve = results.runs[0].train_curve;
  curve.clear();
  for (int i = 1; i <= 1000; ++i) curve.push_back({1.0 * i, i % 2 ? 3.0 : 5.0, {}});
  const json page = page_json(results, summarise(results), /*max_points=*/500);
  const json& few = page["results"]["runs"][0]["train_curve"];
  ASSERT_EQ(few.size(), 500u);
  EXPECT_EQ(few.front(), (json{2, 4}));
  EXPECT_EQ(few.back(), (json{1000, 4}));
}

TEST(ReportTest, NamesCannotLeaveTheirPlace) {
  ComparisonResults results = synthetic_results();
  const std::string name = "</script><b>&\"|*{{json}}";
  results.title = name;
  results.marks = {name};
  results.contract[0].value = name;
  for (Contender& contender : results.contenders)
    if (contender.name == "hawk") contender.name = name;
  for (RunResult& run : results.runs)
    if (run.contender == "hawk") run.contender = name;
  const std::string html = html_of(results), usual = html_of(synthetic_results());
  EXPECT_EQ(count(html, "</script"), count(usual, "</script"));
  expect_has_not(html, "<b>");
  expect_has(html, "<h1>&lt;/script&gt;&lt;b&gt;&amp;&quot;|*{{json}}</h1>");
  EXPECT_EQ(json::parse(between(html, kDataTag, "</script>"))["results"]["title"], name);
  const std::string markdown = markdown_of(results);
  expect_has(markdown, "# &lt;/script>&lt;b>&amp;\"\\|\\*{{json}}\n");
  expect_has_not(markdown, "<b>");
}

TEST(ReportTest, WhatWasNotMeasuredIsLeftOut) {
  const std::string markdown = markdown_of(bare_results());
  for (const char* title : {"Recall", "Learning rates", "Training tok/s", "Decoding tok/s",
                            "State of one", "What was equal", "Read this first"})
    expect_has_not(markdown, "## " + std::string(title));
  expect_has(markdown, "## Contenders");
}

}  // namespace
}  // namespace ceiling
