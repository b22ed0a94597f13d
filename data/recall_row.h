// What the generators of recall tasks and recall probes are written with.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"

namespace ceiling {

// A row of numbers: each call uses the next one.
class Draws {
 public:
  Draws(uint64_t seed, const std::string& purpose) : stream_(seed, purpose) {}
  double uniform() { return stream_.uniform(next_++); }
  // From [low, high). The bias of the remainder is below 2^-32 for ranges of 32 bits.
  int32_t below(int64_t low, int64_t high) {
    return static_cast<int32_t>(
        low + static_cast<int64_t>(stream_.bits(next_++) % static_cast<uint64_t>(high - low)));
  }
  // n different numbers of [low, high), in random order (Floyd's sampling, then a shuffle).
  std::vector<int32_t> distinct(int64_t n, int64_t low, int64_t high);

 private:
  RandomStream stream_;
  uint64_t next_ = 0;
};

struct Row {
  std::span<int32_t> tokens, targets;
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int32_t& token(int64_t t) const { return tokens[static_cast<size_t>(t)]; }
  int32_t& target(int64_t t) const { return targets[static_cast<size_t>(t)]; }
};

void fill_random(const Row& row, int64_t low, int64_t high, Draws& draws);

// Tokens of which each is followed by the next, as a language model sees them: one more than the
// row that they are written to, whose last target is the last of them.
class Sequence {
 public:
  explicit Sequence(const Row& row) : row_(row), tokens_(static_cast<size_t>(row.size()) + 1) {}
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  int32_t& operator[](int64_t t) { return tokens_[static_cast<size_t>(t)]; }
  // Tokens [first, last) are to be predicted; they must stand already.
  void ask(int64_t first, int64_t last);
  // To be called at the end. The targets of what was not asked are left as they are.
  void write_inputs();

 private:
  Row row_;
  std::vector<int32_t> tokens_;
};

// A random string of n tokens of [low, high), and the same string again to the end of the sequence,
// of which all but the first token is asked; random tokens before. The string's first token stands
// nowhere else, so that its return tells where the second string begins.
void write_copied_string(Sequence& sequence, int64_t n, int64_t low, int64_t high, Draws& draws);

}  // namespace ceiling
