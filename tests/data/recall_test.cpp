#include "data/recall.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "data/loader.h"

namespace ceiling {
namespace {

struct Sample {
  std::vector<int32_t> tokens, targets;
  auto operator<=>(const Sample&) const = default;
};

Sample read(const RecallSamples& samples, int64_t index, int64_t context) {
  Sample sample{std::vector<int32_t>(static_cast<size_t>(context)),
                std::vector<int32_t>(static_cast<size_t>(context))};
  samples.read(index, sample.tokens, sample.targets);
  return sample;
}

RecallOptions small(const std::string& task) {
  RecallOptions o;
  o.task = task;
  o.vocab_size = task == "mqar" ? 64 : 16;
  o.n_items = task == "induction" || task == "needle" ? 0 : 4;
  o.n_train = 50, o.n_test = 20;
  return o;
}

// The answer at t by a rule that reads tokens [0, t] only; -1: it cannot be told.
int32_t derive(const RecallOptions& o, const std::vector<int32_t>& tokens, int64_t t) {
  const auto at = [&](int64_t i) { return tokens[static_cast<size_t>(i)]; };
  const auto T = static_cast<int64_t>(tokens.size());
  if (o.task == "mqar") {
    for (int64_t i = 0; i < 2 * o.n_items; i += 2)
      if (at(i) == at(t)) return at(i + 1);
  } else if (o.task == "selective_copying") {
    int64_t rank = t - (T - o.n_items);
    for (int64_t i = 0; i < t; ++i)
      if (at(i) >= 2 && rank-- == 0) return at(i);
  } else if (o.task == "copying") {
    // The string's first token has come again, and once before only.
    const int64_t asked = T + 1 - o.n_items;
    EXPECT_EQ(std::count(tokens.begin(), tokens.begin() + asked, at(asked)), 1);
    if (std::find(tokens.begin(), tokens.end(), at(asked)) == tokens.begin() + asked - o.n_items)
      return at(t + 1 - o.n_items);
  } else {
    // The longest earlier run of tokens that ends as the context ends here, back to the question.
    int64_t asked = t;
    while (at(asked) != 1) --asked;
    const int64_t skip = o.task == "phonebook" ? 1 : 0;  // its question mark stands in no entry
    const int64_t n = t - asked + 1 - skip;
    for (int64_t i = 0; i + n < asked; ++i)
      if (std::equal(tokens.begin() + i, tokens.begin() + i + n, tokens.begin() + asked + skip))
        return at(i + n);
  }
  return -1;
}

class RecallTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tasks, RecallTest, ::testing::ValuesIn(recall_tasks()),
                         [](const auto& param) { return param.param; });

TEST_P(RecallTest, EveryAnswerFollowsFromTheContextBeforeIt) {
  const RecallSamples samples(small(GetParam()), 64, 1, Split::kTrain);
  const RecallOptions& o = samples.options();
  const int64_t per_sample = GetParam() == "mqar" || GetParam() == "selective_copying" ? o.n_items
                             : GetParam() == "induction"                               ? 1
                             : GetParam() == "copying" ? o.n_items - 1
                                                       : o.value_tokens;
  for (int64_t index = 0; index < 200; ++index) {
    const Sample sample = read(samples, index, 64);
    int64_t n = 0;
    for (int64_t t = 0; t < 64; ++t) {
      const int32_t target = sample.targets[static_cast<size_t>(t)];
      ASSERT_GE(sample.tokens[static_cast<size_t>(t)], 0);
      ASSERT_LT(sample.tokens[static_cast<size_t>(t)], o.vocab_size);
      if (target < 0) continue;
      ++n;
      ASSERT_EQ(derive(o, sample.tokens, t), target) << "sample " << index << " position " << t;
    }
    ASSERT_EQ(n, per_sample);
  }
}

TEST_P(RecallTest, SamplesAreAFunctionOfSeedAndIndexAndTheTestSetOfTheIndexAlone) {
  const RecallOptions o = small(GetParam());
  const RecallSamples a(o, 64, 1, Split::kTrain), again(o, 64, 1, Split::kTrain),
      other(o, 64, 2, Split::kTrain), test(o, 64, 1, Split::kValid), test2(o, 64, 2, Split::kValid);
  for (const int64_t index : {30, 0, 7}) {
    EXPECT_EQ(read(a, index, 64), read(again, index, 64));
    EXPECT_NE(read(a, index, 64), read(other, index, 64));
    EXPECT_EQ(read(test, index, 64), read(test2, index, 64));
  }
  EXPECT_NE(read(a, 0, 64), read(a, 1, 64));
}

// A vocabulary so small that chance alone would repeat sequences.
TEST(RecallSamples, TestSetSharesNoSequenceWithTraining) {
  RecallOptions o;
  o.task = "selective_copying", o.vocab_size = 8, o.n_items = 2;
  const RecallSamples train(o, 6, 1, Split::kTrain), test(o, 6, 1, Split::kValid);
  std::set<Sample> seen;
  for (int64_t i = 0; i < 2000; ++i) seen.insert(read(train, i, 6));
  EXPECT_LT(seen.size(), 1000u) << "the test needs sequences that repeat";
  for (int64_t i = 0; i < 200; ++i) EXPECT_FALSE(seen.contains(read(test, i, 6)));
}

TEST(RecallSamples, PublishedSettingsOfMqar) {
  for (const auto& [context, pairs] : {std::pair{64, 4}, {128, 8}, {256, 16}, {512, 64}}) {
    RecallOptions o;
    o.task = "mqar";
    o = resolve_recall(o, context);
    EXPECT_EQ(o.n_items, pairs);
    EXPECT_EQ(o.vocab_size, 8192);
  }
}

// Counts against the chances i^(a - 1) of the paper for the first key, which is drawn first.
TEST(RecallSamples, GapsOfMqarFollowThePowerLaw) {
  RecallOptions o;
  o.task = "mqar", o.n_items = 1, o.vocab_size = 64, o.power = 0.01;
  constexpr int kContext = 18, kSlots = 8, kSamples = 8000;
  const RecallSamples samples(o, kContext, 1, Split::kTrain);
  std::vector<int> counts(kSlots);
  for (int64_t i = 0; i < kSamples; ++i) {
    const Sample sample = read(samples, i, kContext);
    for (size_t t = 0; t < kContext; ++t)
      if (sample.targets[t] >= 0) ++counts[(t - 2) / 2];
  }
  double sum = 0, chi2 = 0;
  for (int i = 1; i <= kSlots; ++i) sum += std::pow(i, -0.99);
  for (int i = 1; i <= kSlots; ++i) {
    const double wanted = kSamples * std::pow(i, -0.99) / sum;
    chi2 += std::pow(counts[static_cast<size_t>(i - 1)] - wanted, 2) / wanted;
  }
  EXPECT_LT(chi2, 24.3) << "7 degrees of freedom, one in a thousand";
}

TEST(RecallSamples, CopyingFillsTheContextUnlessAStringIsShorter) {
  RecallOptions o;
  o.task = "copying";
  for (const int64_t context : {15, 16}) {
    const RecallSamples samples(o, context, 1, Split::kTrain);
    EXPECT_EQ(samples.options().n_items, 8);
    const Sample sample = read(samples, 3, context);
    EXPECT_EQ(std::count(sample.targets.begin(), sample.targets.end(), -1), context - 7);
    EXPECT_NE(sample.targets.back(), -1) << "the last target follows the last token";
  }
  o.n_items = 3;
  const Sample sample = read(RecallSamples(o, 16, 1, Split::kTrain), 3, 16);
  EXPECT_EQ(std::count(sample.tokens.begin(), sample.tokens.end(), 0), 17 - 6);
}

TEST(RecallSamples, RefusesWhatDoesNotFit) {
  RecallOptions o;
  o.task = "mqar", o.n_items = 17;
  EXPECT_THROW(resolve_recall(o, 64), Error);
  o.n_items = 16;
  EXPECT_NO_THROW(resolve_recall(o, 64));
  o.vocab_size = 32;
  EXPECT_THROW(resolve_recall(o, 64), Error);
  o.task = "copying", o.n_items = 33;
  EXPECT_THROW(resolve_recall(o, 64), Error);
  o.n_items = 32;
  EXPECT_NO_THROW(resolve_recall(o, 64));
  o.n_items = 1;
  EXPECT_THROW(resolve_recall(o, 64), Error);
  o.task = "mqra";
  EXPECT_THROW(resolve_recall(o, 64), Error);
}

struct Seen {
  std::vector<std::vector<int32_t>> rows;
  uint64_t digest = 0;
};
Seen read_all(const LoaderOptions& options) {
  Loader loader(options);
  Seen seen;
  while (const auto batch = loader.next()) {
    seen.digest += batch->digest;
    for (int64_t i = 0; i < batch->n_samples; ++i) {
      const int64_t at = i * batch->context;
      std::vector<int32_t> row(batch->tokens + at, batch->tokens + at + batch->context);
      row.insert(row.end(), batch->targets + at, batch->targets + at + batch->context);
      seen.rows.push_back(row);
    }
  }
  return seen;
}

TEST_P(RecallTest, LoaderResumesExactlyAndGivesTheSameForEveryWorldSize) {
  LoaderOptions o;
  o.recall = small(GetParam());
  o.context = 64, o.global_batch = 8, o.end_position = 120;
  const Seen whole = read_all(o);
  ASSERT_EQ(whole.rows.size(), 120u);
  LoaderOptions rest = o;
  rest.first_position = 56;
  EXPECT_EQ(read_all(rest).rows,
            std::vector<std::vector<int32_t>>(whole.rows.begin() + 56, whole.rows.end()));
  uint64_t digest = 0;
  for (int64_t rank = 0; rank < 3; ++rank) {
    LoaderOptions mine = o;
    mine.rank = rank, mine.world_size = 3;
    digest += read_all(mine).digest;
  }
  EXPECT_EQ(digest, whole.digest);
  // An epoch has each of the 50 samples once.
  using Rows = std::multiset<std::vector<int32_t>>;
  EXPECT_EQ(Rows(whole.rows.begin(), whole.rows.begin() + 50),
            Rows(whole.rows.begin() + 50, whole.rows.begin() + 100));
  LoaderOptions test = o;
  test.split = Split::kValid, test.shuffle = false, test.end_position.reset();
  EXPECT_EQ(read_all(test).rows.size(), 20u);
}

TEST(RecallLoader, FingerprintTellsTasksApart) {
  LoaderOptions a;
  a.recall = small("mqar");
  a.context = 64;
  LoaderOptions b = a;
  b.recall->n_items = 5;
  EXPECT_NE(Loader(a).fingerprint(), Loader(b).fingerprint());
  EXPECT_NE(data_changes(Loader(a).describe(), Loader(b).describe()), "");
  EXPECT_EQ(Loader(a).tokenizer().vocab_size, 64);
  EXPECT_EQ(Loader(a).samples_per_epoch(), 50);
}

}  // namespace
}  // namespace ceiling
