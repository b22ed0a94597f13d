#include "data/probe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/support/expect_error.h"

namespace ceiling {
namespace {

struct Sample {
  std::vector<int32_t> tokens, targets;
  auto operator<=>(const Sample&) const = default;
};

Sample read(const ProbeSamples& samples, int64_t index, int64_t context) {
  Sample sample{std::vector<int32_t>(static_cast<size_t>(context)),
                std::vector<int32_t>(static_cast<size_t>(context))};
  samples.read(index, sample.tokens, sample.targets);
  return sample;
}

// n ids with holes between them, as a tokenizer's ordinary tokens have.
std::vector<uint32_t> some_ids(int64_t n) {
  std::vector<uint32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<uint32_t>(259 + 3 * i));
  return ids;
}

// What follows the earlier copy of tokens [begin, t], which must be the only one; else -1.
int32_t continuation(const std::vector<int32_t>& tokens, int64_t begin, int64_t t) {
  const int64_t n = t - begin + 1;
  int32_t found = -1;
  for (int64_t i = 0; i + n <= begin; ++i) {
    if (!std::equal(tokens.begin() + begin, tokens.begin() + t + 1, tokens.begin() + i)) continue;
    if (found >= 0) return -1;
    found = tokens[static_cast<size_t>(i + n)];
  }
  return found;
}

// The lengths cover odd ones, the shortest, and those where few ids limit what fits.
const std::vector<std::pair<int64_t, int64_t>> kSizes = {  // context, ids
    {16, 32}, {17, 40}, {64, 61}, {255, 1000}, {256, 32}, {1024, 95}, {4096, 32}};

class ProbeTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Probes, ProbeTest, ::testing::ValuesIn(recall_probes()),
                         [](const auto& param) { return param.param; });

TEST_P(ProbeTest, EveryAnswerStandsInTheContextAndFollowsFromItByRepetition) {
  for (const auto& [context, n_ids] : kSizes) {
    const ProbeSamples samples(GetParam(), context, some_ids(n_ids));
    for (int64_t index = 0; index < (context > 1000 ? 3 : 40); ++index) {
      const Sample sample = read(samples, index, context);
      for (int64_t t = 0, begin = 0; t < context; ++t) {
        const int32_t target = sample.targets[static_cast<size_t>(t)];
        if (target < 0) continue;
        // The question: from where answers are asked one after another, in a phonebook from the
        // name before the separator.
        if (t == 0 || sample.targets[static_cast<size_t>(t - 1)] < 0)
          begin = t - (GetParam() == "phonebook" ? 2 : 0);
        ASSERT_EQ(continuation(sample.tokens, begin, t), target)
            << "context " << context << " sample " << index << " position " << t;
        if (t + 1 == context) continue;
        ASSERT_EQ(sample.tokens[static_cast<size_t>(t + 1)], target) << "as a model is taught";
      }
    }
  }
}

TEST_P(ProbeTest, AsksAsManyAnswersInEverySample) {
  const auto wanted = [&](int64_t context, int64_t n_ids) -> int64_t {
    if (GetParam() == "induction") return std::max<int64_t>(std::min(context / 32, n_ids / 4), 1);
    if (GetParam() == "mqar") return std::max<int64_t>(std::min(context / 16, n_ids / 4), 1);
    return GetParam() == "copying" ? (context + 1) / 2 - 1 : 4;
  };
  for (const auto& [context, n_ids] : kSizes) {
    const ProbeSamples samples(GetParam(), context, some_ids(n_ids));
    for (int64_t index = 0; index < 40; ++index) {
      const Sample sample = read(samples, index, context);
      ASSERT_EQ(context - std::count(sample.targets.begin(), sample.targets.end(), -1),
                wanted(context, n_ids));
    }
  }
}

TEST_P(ProbeTest, TokensAreCandidatesAndAllOfThemOccur) {
  const std::vector<uint32_t> ids = some_ids(50);
  const ProbeSamples samples(GetParam(), 128, ids);
  std::set<int32_t> seen;
  for (int64_t index = 0; index < 64; ++index) {
    const Sample sample = read(samples, index, 128);
    seen.insert(sample.tokens.begin(), sample.tokens.end());
    seen.insert(sample.targets.begin(), sample.targets.end());
  }
  seen.erase(-1);
  EXPECT_EQ(seen, std::set<int32_t>(ids.begin(), ids.end()));
  EXPECT_EQ(samples.chance(), 1.0 / 50);
}

TEST_P(ProbeTest, SamplesAreAFunctionOfTheIndexAlone) {
  const ProbeSamples a(GetParam(), 64, some_ids(50)), again(GetParam(), 64, some_ids(50));
  const Sample later = read(a, 9, 64);
  EXPECT_EQ(read(again, 9, 64), later);
  EXPECT_NE(read(again, 8, 64), later);
  EXPECT_EQ(read(again, 9, 64), later);
}

TEST_P(ProbeTest, RefusesWhatIsTooSmall) {
  expect_error(
      [] { ProbeSamples(GetParam(), 15, some_ids(50)); },
      "recall probe " + GetParam() + ": a context of 15 is too short, it must be at least 16");
  expect_error([] { ProbeSamples(GetParam(), 16, some_ids(31)); },
               "recall probe " + GetParam() +
                   ": the tokenizer has 31 ordinary tokens (without BOS, EOS, unknown and byte "
                   "fallback), at least 32 are needed");
}

TEST(ProbeSamples, RefusesAnUnknownName) {
  expect_error([] { ProbeSamples("echo", 64, some_ids(50)); },
               "'echo' is no recall probe; one of induction, copying, phonebook, needle, mqar");
}

// Distances back to the first of each bigram.
TEST(ProbeSamples, GapsOfInductionArePowersOfTwoUpToTheContext) {
  const ProbeSamples samples("induction", 64, some_ids(50));
  std::map<int64_t, int> counts;
  for (int64_t index = 0; index < 300; ++index) {
    const Sample sample = read(samples, index, 64);
    for (int64_t t = 0; t < 64; ++t) {
      if (sample.targets[static_cast<size_t>(t)] < 0) continue;
      const auto first = std::find(sample.tokens.begin(), sample.tokens.end(),
                                   sample.tokens[static_cast<size_t>(t)]);
      ++counts[t - (first - sample.tokens.begin())];
    }
  }
  ASSERT_EQ(counts.size(), 5u);
  for (const int64_t gap : {2, 4, 8, 16, 32}) EXPECT_NEAR(counts[gap], 120, 50) << gap;
}

TEST(ProbeSamples, TheNeedleLiesAtEveryDepth) {
  const ProbeSamples samples("needle", 64, some_ids(50));
  std::map<int64_t, int> quarters;
  for (int64_t index = 0; index < 300; ++index) {
    const Sample sample = read(samples, index, 64);
    const auto mark = std::find(sample.tokens.begin(), sample.tokens.end(), sample.tokens[60]);
    ++quarters[(mark - sample.tokens.begin()) / 14];
  }
  EXPECT_EQ(quarters.size(), 4u) << "places 0 to 55";
  for (const auto& [quarter, n] : quarters) EXPECT_NEAR(n, 75, 35) << quarter;
}

}  // namespace
}  // namespace ceiling
