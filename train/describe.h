// Aligned "key   value" lines, for what a run prints before its first step.
#pragma once
#include <string>
#include <vector>

namespace ceiling {

struct DescriptionRow {
  std::string key, value;  // an empty value makes the row a heading
};

// One line per row, values in one column; lines of a value after its first are indented to that
// column.
std::string description_text(const std::vector<DescriptionRow>& rows);

}  // namespace ceiling
