#include "data/recall_row.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace ceiling {

std::vector<int32_t> Draws::distinct(int64_t n, int64_t low, int64_t high) {
  std::vector<int32_t> chosen;
  std::unordered_set<int32_t> seen;
  for (int64_t top = high - n; top < high; ++top) {
    int32_t value = below(low, top + 1);
    if (!seen.insert(value).second) seen.insert(value = static_cast<int32_t>(top));
    chosen.push_back(value);
  }
  for (size_t i = chosen.size(); i > 1; --i)
    std::swap(chosen[i - 1], chosen[static_cast<size_t>(below(0, static_cast<int64_t>(i)))]);
  return chosen;
}

void fill_random(const Row& row, int64_t low, int64_t high, Draws& draws) {
  for (int32_t& token : row.tokens) token = draws.below(low, high);
}

void Sequence::ask(int64_t first, int64_t last) {
  for (int64_t t = first; t < last; ++t) row_.target(t - 1) = (*this)[t];
}

void Sequence::write_inputs() { std::copy_n(tokens_.begin(), row_.size(), row_.tokens.begin()); }

void write_copied_string(Sequence& sequence, int64_t n, int64_t low, int64_t high, Draws& draws) {
  const int32_t first = draws.below(low, high);
  const int64_t begin = sequence.size() - 2 * n, again = begin + n;
  for (int64_t t = 0; t < again; ++t) {
    const int32_t other = draws.below(low, high - 1);
    sequence[t] = t == begin ? first : other + (other >= first);
  }
  for (int64_t i = 0; i < n; ++i) sequence[again + i] = sequence[begin + i];
  sequence.ask(again + 1, sequence.size());
}

}  // namespace ceiling
