#include <cctype>

#include "base/error.h"
#include "base/text.h"
#include "train/compare/report.h"

namespace ceiling {

namespace {

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || (c & 0x80); }

// Text that Markdown shows as it is, on one line.
std::string escaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool within_word =
        i > 0 && i + 1 < text.size() && is_word(text[i - 1]) && is_word(text[i + 1]);
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '\n' || c == '\r')
      out += ' ';
    else if (std::string_view("\\`*|[]").find(c) != std::string_view::npos ||
             (c == '_' && !within_word))
      out += '\\', out += c;
    else
      out += c;
  }
  return out;
}

std::string table_text(const Table& table) {
  std::string text = "|";
  for (const std::string& column : table.columns) text += " " + escaped(column) + " |";
  text += "\n|";
  for (size_t i = 0; i < table.columns.size(); ++i)
    text += i == 0 || table.has_text ? " --- |" : " ---: |";
  text += "\n";
  for (const auto& row : table.rows) {
    text += "|";
    for (const Cell& cell : row) {
      const std::string inner = escaped(cell.text);
      text += cell.strong ? " **" + inner + "** |" : " " + inner + " |";
    }
    text += "\n";
  }
  for (const std::string& note : table.notes) text += "\n" + escaped(note) + "\n";
  return text + "\n";
}

std::string list_text(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += "- " + escaped(item) + "\n";
  return text + "\n";
}

}  // namespace

std::string report_markdown(const ReportContent& content) {
  std::string text = "# " + escaped(content.title) + "\n\n" + escaped(content.subtitle) + "\n\n";
  if (!content.marks.empty()) {
    text += "> **Read this first**\n>\n";
    for (const std::string& mark : content.marks) text += "> - **" + escaped(mark) + "**\n";
    text += "\n";
  }
  text += "## " + escaped(content.verdict) + "\n\n" + table_text(content.answer) +
          list_text(content.answers);
  text += "Charts: report.html, in the same folder.\n\n";
  for (const Table& table : content.budgets)
    text += "## " + escaped(table.title) + "\n\n" + table_text(table);
  for (const Table& table : content.details)
    text += "## " + escaped(table.title) + "\n\n" + table_text(table);
  if (!content.contract.rows.empty())
    text += "## " + escaped(content.contract.title) + "\n\n" + table_text(content.contract);
  text += "## How the intervals are made\n\n" + escaped(content.method) + "\n\n";
  text += "## What this cannot show\n\n" + list_text(content.limits);
  text += "## Again\n\n    " + content.command + "\n";
  return text;
}

}  // namespace ceiling
