#include "data/probe.h"

#include <algorithm>
#include <bit>
#include <map>
#include <unordered_set>

#include "base/error.h"
#include "base/text.h"
#include "data/recall_row.h"

namespace ceiling {

namespace {

constexpr uint64_t kSeed = 20220308;
constexpr int64_t kMinContext = 16, kMinIds = 32;
constexpr int64_t kNameTokens = 2, kNumberTokens = 4, kNeedleTokens = 4;

// Tokens here are 0 .. n_ids - 1, which read() turns into ids.

// Draws from [0, n_ids) what is not among `taken`, which holds a quarter of it at most.
class Others {
 public:
  Others(int64_t n_ids, const std::vector<int32_t>& taken)
      : n_ids_(n_ids), taken_(taken.begin(), taken.end()) {}
  int32_t operator()(Draws& draws) const {
    int32_t token = 0;
    do token = draws.below(0, n_ids_);
    while (taken_.contains(token));
    return token;
  }

 private:
  int64_t n_ids_;
  std::unordered_set<int32_t> taken_;
};

void fill(Sequence& s, const Others& others, Draws& draws) {
  for (int64_t t = 0; t < s.size(); ++t) s[t] = others(draws);
}

void induction(int64_t n_ids, Sequence& s, Draws& draws) {
  const int64_t n_bigrams = std::clamp<int64_t>((s.size() - 1) / 32, 1, n_ids / 4);
  const auto firsts = draws.distinct(n_bigrams, 0, n_ids);
  const Others others(n_ids, firsts);
  fill(s, others, draws);
  std::vector<bool> used(static_cast<size_t>(s.size()));
  const int64_t n_gaps = std::bit_width(static_cast<uint64_t>(s.size() - 2)) - 1;
  int32_t turn = draws.below(0, n_gaps);  // few bigrams see other gaps in each sample
  for (const int32_t first : firsts) {
    const int64_t gap = int64_t{2} << (turn++ % n_gaps);
    const int64_t n_places = s.size() - 1 - gap, begin = draws.below(0, n_places);
    for (int64_t i = 0; i < n_places; ++i) {
      const int64_t t = (begin + i) % n_places;
      const int64_t places[] = {t, t + 1, t + gap, t + gap + 1};
      const auto is_used = [&](int64_t place) { return used[static_cast<size_t>(place)]; };
      if (std::any_of(std::begin(places), std::end(places), is_used)) continue;
      for (const int64_t place : places) used[static_cast<size_t>(place)] = true;
      s[t] = s[t + gap] = first;
      s[t + gap + 1] = s[t + 1];
      s.ask(t + gap + 1, t + gap + 2);
      break;
    }
  }
}

void phonebook(int64_t n_ids, Sequence& s, Draws& draws) {
  const auto marks = draws.distinct(2, 0, n_ids);
  const int32_t separator = marks[0], line_end = marks[1];
  const Others others(n_ids, marks);
  fill(s, others, draws);
  constexpr int64_t kQuestion = kNameTokens + 1 + kNumberTokens, kEntry = kQuestion + 1;
  // Of names that are pairs of n_ids - 2 tokens a quarter is used at most, so that another draw
  // soon finds one that is not taken.
  static_assert(kNameTokens == 2);
  const int64_t n_entries =
      std::min((s.size() - kQuestion) / kEntry, (n_ids - 2) * (n_ids - 2) / 4);
  const int64_t asked = s.size() - kQuestion, begin = asked - n_entries * kEntry;
  std::map<std::pair<int32_t, int32_t>, int64_t> entries;  // by name: where they begin
  for (int64_t t = begin; t < asked; t += kEntry) {
    while (!entries.try_emplace({s[t], s[t + 1]}, t).second)
      s[t] = others(draws), s[t + 1] = others(draws);
    s[t + kNameTokens] = separator, s[t + kEntry - 1] = line_end;
  }
  if (begin > 0) s[begin - 1] = line_end;
  const int64_t wanted = begin + kEntry * draws.below(0, n_entries);
  for (int64_t i = 0; i < kQuestion; ++i) s[asked + i] = s[wanted + i];
  s.ask(asked + kNameTokens + 1, s.size());
}

void needle(int64_t n_ids, Sequence& s, Draws& draws) {
  const auto mark = draws.distinct(1, 0, n_ids);
  fill(s, Others(n_ids, mark), draws);
  constexpr int64_t kRun = 1 + kNeedleTokens;
  const int64_t asked = s.size() - kRun, depth = draws.below(0, asked - kRun + 1);
  s[depth] = mark[0];
  for (int64_t i = 0; i < kRun; ++i) s[asked + i] = s[depth + i];
  s.ask(asked + 1, s.size());
}

void mqar(int64_t n_ids, Sequence& s, Draws& draws) {
  const int64_t n_pairs = std::clamp<int64_t>((s.size() - 1) / 16, 1, n_ids / 4);
  const auto keys = draws.distinct(n_pairs, 0, n_ids);
  fill(s, Others(n_ids, keys), draws);
  const auto order = draws.distinct(n_pairs, 0, n_pairs);
  for (int64_t i = 0; i < n_pairs; ++i) {
    s[2 * i] = keys[static_cast<size_t>(i)];
    const int64_t asked = s.size() - 2 * n_pairs + 2 * order[static_cast<size_t>(i)];
    s[asked] = s[2 * i], s[asked + 1] = s[2 * i + 1];
    s.ask(asked + 1, asked + 2);
  }
}

}  // namespace

const std::vector<std::string>& recall_probes() {
  static const std::vector<std::string> names = {"induction", "copying", "phonebook", "needle",
                                                 "mqar"};
  return names;
}

ProbeSamples::ProbeSamples(const std::string& probe, int64_t context, std::vector<uint32_t> ids)
    : probe_(probe), ids_(std::move(ids)) {
  if (std::find(recall_probes().begin(), recall_probes().end(), probe) == recall_probes().end())
    throw Error("'{}' is no recall probe; one of {}", probe, join(recall_probes(), ", "));
  if (context < kMinContext)
    throw Error("recall probe {}: a context of {} is too short, it must be at least {}", probe,
                context, kMinContext);
  const auto n_ids = static_cast<int64_t>(ids_.size());
  if (n_ids < kMinIds)
    throw Error(
        "recall probe {}: the tokenizer has {} ordinary tokens (without BOS, EOS, unknown and byte "
        "fallback), at least {} are needed",
        probe, n_ids, kMinIds);
}

void ProbeSamples::read(int64_t index, std::span<int32_t> tokens,
                        std::span<int32_t> targets) const {
  const auto n_ids = static_cast<int64_t>(ids_.size());
  const Row row{tokens, targets};
  const uint64_t seed =
      RandomStream(kSeed, "recall probe/" + probe_).bits(static_cast<uint64_t>(index));
  Draws draws(seed, "recall probe/sample");
  Sequence sequence(row);
  std::fill(targets.begin(), targets.end(), -1);
  if (probe_ == "induction")
    induction(n_ids, sequence, draws);
  else if (probe_ == "copying")
    write_copied_string(sequence, sequence.size() / 2, 0, n_ids, draws);
  else if (probe_ == "phonebook")
    phonebook(n_ids, sequence, draws);
  else if (probe_ == "needle")
    needle(n_ids, sequence, draws);
  else
    mqar(n_ids, sequence, draws);
  sequence.write_inputs();
  for (int32_t& token : tokens) token = static_cast<int32_t>(ids_[static_cast<size_t>(token)]);
  for (int32_t& target : targets)
    if (target >= 0) target = static_cast<int32_t>(ids_[static_cast<size_t>(target)]);
}

}  // namespace ceiling
