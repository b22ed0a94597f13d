#include "train/compare/match.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "train/setup.h"

namespace ceiling {

namespace {

constexpr int64_t kLargest = int64_t{1} << 22;  // no width or depth is looked for above

MatchedContender describe(const Comparison& comparison, const ContenderSpec& contender,
                          const ConfigNode& model, int64_t vocab_size) {
  RunConfig config = comparison.recipe_with(model);
  const std::unique_ptr<LanguageModel> built = build_model(config, vocab_size);
  MatchedContender matched;
  matched.name = contender.name, matched.architecture = config.model.architecture;
  matched.model = model;
  matched.parameters = built->n_parameters();
  matched.non_embedding_parameters = built->n_non_embedding_parameters();
  matched.training_flops_per_token = 3 * built->flops_per_token(config.data.context);
  return matched;
}

// One contender whose `key` is free.
class Solver {
 public:
  Solver(const Comparison& comparison, const ContenderSpec& contender, int64_t vocab_size)
      : comparison_(comparison), contender_(contender), vocab_size_(vocab_size) {}

  MatchedContender at(int64_t value) const {
    ConfigNode model = contender_.model;
    set_by_path(model, contender_.match, ConfigNode::scalar(std::to_string(value)));
    try {
      MatchedContender matched = describe(comparison_, contender_, model, vocab_size_);
      matched.key = contender_.match, matched.value = value;
      return matched;
    } catch (const Error& error) {
      throw Error("contenders.{}: cannot match its parameters by {}: {}", contender_.name,
                  contender_.match, error.what());
    }
  }

  MatchedContender solve(int64_t wanted, double tolerance) const {
    // Parameters grow with the key: the first value that has at least as many.
    int64_t low = 0, high = 1;
    while (at(high).non_embedding_parameters < wanted && high < kLargest) low = high, high *= 2;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (at(middle).non_embedding_parameters < wanted ? low : high) = middle;
    }
    const auto error = [&](const MatchedContender& matched) {
      return std::abs(static_cast<double>(matched.non_embedding_parameters - wanted)) /
             static_cast<double>(wanted);
    };
    const auto nearest_of = [&](int64_t first, int64_t second) {
      MatchedContender one = at(std::max<int64_t>(1, first)), other = at(second);
      return error(one) < error(other) ? one : other;
    };
    if (contender_.match != "n_layers") {  // a depth is no width: only the nearest will do
      // Half of what is allowed for a round number, all of it for what matrix units need.
      for (const auto& [multiple, share] :
           {std::pair{128, 0.5}, {64, 0.5}, {32, 0.5}, {16, 0.5}, {8, 1.0}}) {
        const int64_t below = high / multiple * multiple;
        if (below == 0) continue;
        MatchedContender rounded = nearest_of(below, below + multiple);
        if (error(rounded) <= share * tolerance) return rounded;
      }
    }
    return nearest_of(high - 1, high);
  }

 private:
  const Comparison& comparison_;
  const ContenderSpec& contender_;
  int64_t vocab_size_;
};

}  // namespace

std::vector<MatchedContender> match_contenders(const Comparison& comparison, int64_t vocab_size) {
  const double tolerance = comparison.compare.tolerance;
  int64_t wanted = 0;
  for (const ContenderSpec& contender : comparison.contenders)
    if (contender.name == comparison.compare.match_to)
      wanted =
          describe(comparison, contender, contender.model, vocab_size).non_embedding_parameters;
  std::vector<MatchedContender> all;
  for (const ContenderSpec& contender : comparison.contenders) {
    const bool as_written =
        contender.match == "none" || contender.name == comparison.compare.match_to;
    MatchedContender matched =
        as_written ? describe(comparison, contender, contender.model, vocab_size)
                   : Solver(comparison, contender, vocab_size).solve(wanted, tolerance);
    matched.match_error = static_cast<double>(matched.non_embedding_parameters - wanted) /
                          static_cast<double>(wanted);
    if (std::abs(matched.match_error) > tolerance)
      throw Error(
          "{}: contenders.{} has {} parameters without embedding and head, {} has {}: {:+.2f} %, "
          "more than compare.tolerance {}. {}",
          comparison.path, contender.name, format_thousands(matched.non_embedding_parameters),
          comparison.compare.match_to, format_thousands(wanted), 100 * matched.match_error,
          format_double(tolerance),
          as_written
              ? fmt::format(
                    "Set contenders.{}.match to the key of its model that is to be solved for, "
                    "such "
                    "as n_layers or, where it has one, d_ff; or name it as compare.match_to",
                    contender.name)
              : fmt::format("The nearest is {} {}; match by another key, or match all others to "
                            "this one (compare.match_to)",
                            matched.key, matched.value));
    all.push_back(std::move(matched));
  }
  return all;
}

}  // namespace ceiling
