#include "data/recall.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"
#include "data/recall_row.h"

namespace ceiling {

namespace {

constexpr uint64_t kTestSeed = 20231208;
constexpr int kTestShare = 16;  // one sequence in this many belongs to the test set
constexpr uint64_t kMaxTries = 4096;

// Tokens with a meaning of their own.
constexpr int32_t kBlank = 0, kMark = 1;
constexpr int32_t kFirstPlain = 2;

// D pairs, then each key once more at an even distance behind them, among random tokens.
void mqar(const RecallOptions& o, const std::vector<double>& log_chance, const Row& row,
          Draws& draws) {
  fill_random(row, 0, o.vocab_size, draws);
  const auto keys = draws.distinct(o.n_items, 1, o.vocab_size / 2);
  const auto values = draws.distinct(o.n_items, o.vocab_size / 2, o.vocab_size);
  // Weighted sampling without repeat: the largest log chance plus Gumbel noise come first
  // (Efraimidis & Spirakis, 2006), and in the order of successive draws.
  std::vector<double> rank;
  for (const double chance : log_chance)
    rank.push_back(chance - std::log(-std::log(draws.uniform() + 0x1p-54)));
  std::vector<int64_t> slots(rank.size());
  std::iota(slots.begin(), slots.end(), 0);
  std::partial_sort(slots.begin(), slots.begin() + o.n_items, slots.end(),
                    [&](int64_t a, int64_t b) {
                      return rank[static_cast<size_t>(a)] > rank[static_cast<size_t>(b)];
                    });
  for (int64_t i = 0; i < o.n_items; ++i) {
    const auto at = static_cast<size_t>(i);
    row.token(2 * i) = keys[at], row.token(2 * i + 1) = values[at];
    const int64_t asked = 2 * o.n_items + 2 * slots[at];
    row.token(asked) = keys[at], row.target(asked) = values[at];
  }
}

void selective_copying(const RecallOptions& o, const Row& row, Draws& draws) {
  const int64_t n_before = row.size() - o.n_items;
  std::fill(row.tokens.begin(), row.tokens.begin() + n_before, kBlank);
  std::fill(row.tokens.begin() + n_before, row.tokens.end(), kMark);
  auto places = draws.distinct(o.n_items, 0, n_before);
  std::sort(places.begin(), places.end());
  for (int64_t i = 0; i < o.n_items; ++i)
    row.token(places[static_cast<size_t>(i)]) = row.target(n_before + i) =
        draws.below(kFirstPlain, o.vocab_size);
}

// A marked run of `n` tokens at any depth; its mark again at the end asks for it.
void marked_run(int64_t n, const RecallOptions& o, const Row& row, Draws& draws) {
  fill_random(row, kFirstPlain, o.vocab_size, draws);
  const int64_t asked = row.size() - n, depth = draws.below(0, asked - n);
  row.token(depth) = row.token(asked) = kMark;
  for (int64_t i = 0; i < n; ++i) {
    row.target(asked + i) = row.token(depth + 1 + i);
    if (i > 0) row.token(asked + i) = row.target(asked + i - 1);
  }
}

int64_t entry_tokens(const RecallOptions& o) { return o.name_tokens + o.value_tokens + 1; }

void phonebook(const RecallOptions& o, const Row& row, Draws& draws) {
  // Names of the lower half, numbers of the upper; a name is one number written in digits, so that
  // different numbers are different names.
  const int64_t middle = kFirstPlain + (o.vocab_size - kFirstPlain) / 2;
  const int64_t base = middle - kFirstPlain;
  const auto n_names = static_cast<int64_t>(
      std::min(std::pow(static_cast<double>(base), static_cast<double>(o.name_tokens)), 0x1p30));
  const auto names = draws.distinct(o.n_items, 0, n_names);
  const auto write_name = [&](int64_t t, int32_t name) {
    for (int64_t i = 0; i < o.name_tokens; ++i, name /= static_cast<int32_t>(base))
      row.token(t + i) = static_cast<int32_t>(kFirstPlain + name % base);
  };
  const int64_t asked = row.size() - (o.name_tokens + o.value_tokens);
  const int64_t begin = asked - o.n_items * entry_tokens(o);
  std::fill(row.tokens.begin(), row.tokens.begin() + begin, kBlank);
  const int64_t wanted = draws.below(0, o.n_items);
  for (int64_t e = 0; e < o.n_items; ++e) {
    const int64_t t = begin + e * entry_tokens(o), value = t + o.name_tokens;
    write_name(t, names[static_cast<size_t>(e)]);
    for (int64_t i = 0; i < o.value_tokens; ++i)
      row.token(value + i) = draws.below(middle, o.vocab_size);
    row.token(t + entry_tokens(o) - 1) = kBlank;
  }
  row.token(asked) = kMark;
  write_name(asked + 1, names[static_cast<size_t>(wanted)]);
  const int64_t value = begin + wanted * entry_tokens(o) + o.name_tokens;
  for (int64_t i = 0; i < o.value_tokens; ++i) {
    const int64_t t = asked + o.name_tokens + i;
    row.target(t) = row.token(value + i);
    if (i > 0) row.token(t) = row.target(t - 1);
  }
}

void copying(const RecallOptions& o, const Row& row, Draws& draws) {
  Sequence sequence(row);
  write_copied_string(sequence, o.n_items, kFirstPlain, o.vocab_size, draws);
  for (int64_t t = 0; t < sequence.size() - 2 * o.n_items; ++t) sequence[t] = kBlank;
  sequence.write_inputs();
}

int64_t mqar_pairs(int64_t context) { return context == 512 ? 64 : context / 16; }

bool belongs_to_test(const Row& row) {
  const auto bytes = [](std::span<const int32_t> values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  };
  return (fnv1a(bytes(row.tokens) + bytes(row.targets)) >> 32) % kTestShare == 0;
}

}  // namespace

const std::vector<std::string>& recall_tasks() {
  static const std::vector<std::string> names = {
      "mqar", "selective_copying", "induction", "phonebook", "needle", "copying"};
  return names;
}

RecallOptions resolve_recall(RecallOptions o, int64_t context) {
  const auto is = [&](const char* name) { return o.task == name; };
  const auto require = [&](bool fits, const std::string& what) {
    if (!fits)
      throw Error("recall task {} of {} tokens, vocabulary {}, {} items: {}", o.task, context,
                  o.vocab_size, o.n_items, what);
  };
  if (std::find(recall_tasks().begin(), recall_tasks().end(), o.task) == recall_tasks().end())
    throw Error("'{}' is no recall task; one of {}", o.task, join(recall_tasks(), ", "));
  if (o.vocab_size == 0)
    o.vocab_size = is("mqar") ? 8192 : is("phonebook") || is("needle") || is("copying") ? 64 : 16;
  require(o.vocab_size >= 8 && o.vocab_size < INT32_MAX, "the vocabulary must be at least 8");
  require(o.name_tokens >= 1 && o.value_tokens >= 1, "name and value need a token each");
  const int64_t question = o.name_tokens + o.value_tokens;
  if (o.n_items == 0)
    o.n_items = is("mqar")                ? mqar_pairs(context)
                : is("selective_copying") ? 16
                : is("phonebook")         ? (context - question) / entry_tokens(o)
                : is("copying")           ? (context + 1) / 2
                                          : 1;
  require(o.n_items >= 1, "the context is too short");
  if (is("mqar")) {
    require(4 * o.n_items <= context, "needs a context of at least 4 per pair");
    require(o.n_items < o.vocab_size / 2, "keys do not repeat: raise the vocabulary");
  } else if (is("selective_copying")) {
    require(2 * o.n_items <= context, "needs a context of at least 2 per item");
  } else if (is("copying")) {
    require(o.n_items >= 2, "a string of one token leaves nothing to ask");
    require(2 * o.n_items <= context + 1, "needs a context of at least 2 per item, less one");
  } else if (is("phonebook")) {
    require(o.n_items * entry_tokens(o) + question <= context, "the context is too short");
    require(std::pow(static_cast<double>((o.vocab_size - kFirstPlain) / 2),
                     static_cast<double>(o.name_tokens)) >= static_cast<double>(o.n_items),
            "names do not repeat: raise the vocabulary or the tokens of a name");
  } else {
    const int64_t n = is("needle") ? o.value_tokens : 1;
    require(2 * n + 1 <= context, "the context is too short");
  }
  return o;
}

RecallSamples::RecallSamples(const RecallOptions& options, int64_t context, uint64_t seed,
                             Split split)
    : options_(resolve_recall(options, context)),
      context_(context),
      split_(split),
      starts_(split == Split::kTrain ? seed : kTestSeed,
              "recall/" + options.task + "/" + split_name(split)) {
  if (options_.task != "mqar") return;
  for (int64_t slot = 1; slot <= (context - 2 * options_.n_items) / 2; ++slot)
    gap_log_chance_.push_back((options_.power - 1) * std::log(static_cast<double>(slot)));
}

void RecallSamples::read(int64_t index, std::span<int32_t> tokens,
                         std::span<int32_t> targets) const {
  const Row row{tokens, targets};
  const uint64_t start = starts_.bits(static_cast<uint64_t>(index));
  for (uint64_t attempt = 0; attempt < kMaxTries; ++attempt) {
    Draws draws(start + attempt, "recall/sample");
    std::fill(targets.begin(), targets.end(), -1);
    if (options_.task == "mqar")
      mqar(options_, gap_log_chance_, row, draws);
    else if (options_.task == "selective_copying")
      selective_copying(options_, row, draws);
    else if (options_.task == "phonebook")
      phonebook(options_, row, draws);
    else if (options_.task == "copying")
      copying(options_, row, draws);
    else
      marked_run(options_.task == "needle" ? options_.value_tokens : 1, options_, row, draws);
    if (belongs_to_test(row) == (split_ == Split::kValid)) return;
  }
  throw Error(
      "recall task {}: too few different sequences for a test set; raise the vocabulary or "
      "the context",
      options_.task);
}

nlohmann::json RecallSamples::describe() const {
  return {{"task", options_.task},
          {"version", kRecallVersion},
          {"context", context_},
          {"split", split_name(split_)},
          {"vocab_size", options_.vocab_size},
          {"n_items", options_.n_items},
          {"name_tokens", options_.name_tokens},
          {"value_tokens", options_.value_tokens},
          {"power", options_.power},
          {"n_train", options_.n_train},
          {"n_test", options_.n_test}};
}

}  // namespace ceiling
