#include "train/describe.h"

#include <algorithm>

#include "base/text.h"

namespace ceiling {

namespace {
// Columns on a terminal, counting each code point as one.
size_t width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xC0) != 0x80; }));
}
}  // namespace

std::string description_text(const std::vector<DescriptionRow>& rows) {
  size_t column = 0;
  for (const DescriptionRow& row : rows)
    if (!row.value.empty()) column = std::max(column, width(row.key) + 2);
  std::string text;
  for (const DescriptionRow& row : rows) {
    text += row.key;
    size_t at = width(row.key);
    for (const std::string& line :
         row.value.empty() ? std::vector<std::string>() : split(row.value, '\n')) {
      if (at > column) text += '\n', at = 0;
      text += std::string(column - at, ' ') + line;
      at = column + 1;  // the next line begins anew
    }
    text += '\n';
  }
  return text;
}

}  // namespace ceiling
