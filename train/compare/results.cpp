#include "train/compare/results.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace ceiling {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

template <class T, class Visitor>
concept Visited = requires(T& item, Visitor& visitor) {
  item.fields(visitor);
};

template <class T>
constexpr bool is_vector = false;
template <class Item>
constexpr bool is_vector<std::vector<Item>> = true;
template <class T>
constexpr bool is_optional = false;
template <class Item>
constexpr bool is_optional<std::optional<Item>> = true;

// Fills the members of one object.
class Reader {
 public:
  Reader(const json& object, std::string where, std::string key)
      : object_(object), where_(std::move(where)), key_(std::move(key)) {
    if (!object_.is_object()) refuse(object_, key_, "an object");
  }

  template <class T>
  void operator()(const char* name, T& member) {
    const std::string key = key_.empty() ? name : key_ + "." + name;
    const auto found = object_.find(name);
    const bool is_there = found != object_.end() && !found->is_null();
    if (is_there) return read(*found, key, member);
    if constexpr (is_vector<T> || is_optional<T>)
      member = T();
    else
      throw Error("{}: {} is missing", where_, key);
  }

 private:
  template <class T>
  void read(const json& value, const std::string& key, T& member) const {
    if constexpr (is_optional<T>) {
      read(value, key, member.emplace());
    } else if constexpr (is_vector<T>) {
      if (!value.is_array()) refuse(value, key, "a list");
      member.assign(value.size(), {});
      for (size_t i = 0; i < value.size(); ++i)
        read(value[i], fmt::format("{}[{}]", key, i), member[i]);
    } else {
      Reader inner(value, where_, key);
      member.fields(inner);
    }
  }
  void read(const json& value, const std::string& key, std::string& member) const {
    if (!value.is_string()) refuse(value, key, "a text");
    member = value.get<std::string>();
  }
  void read(const json& value, const std::string& key, bool& member) const {
    if (!value.is_boolean()) refuse(value, key, "true or false");
    member = value.get<bool>();
  }
  void read(const json& value, const std::string& key, double& member) const {
    if (!value.is_number()) refuse(value, key, "a number");
    member = value.get<double>();
  }
  void read(const json& value, const std::string& key, int64_t& member) const {
    const bool whole =
        value.is_number_integer() ||
        (value.is_number() && value.get<double>() == std::floor(value.get<double>()) &&
         std::abs(value.get<double>()) < 0x1p53);
    if (!whole) refuse(value, key, "a whole number");
    member = value.get<int64_t>();
  }
  void read(const json& value, const std::string& key, CurvePoint& member) const {
    if (!value.is_array() || value.size() < 2 || value.size() > 3)
      refuse(value, key, "[tokens, loss] or [tokens, loss, accuracy]");
    read(value[0], key + "[0]", member.tokens);
    if (value[1].is_null())
      member.loss = std::numeric_limits<double>::quiet_NaN();
    else
      read(value[1], key + "[1]", member.loss);
    if (value.size() == 3 && !value[2].is_null())
      read(value[2], key + "[2]", member.accuracy.emplace());
  }

  [[noreturn]] void refuse(const json& value, const std::string& key, const char* wanted) const {
    std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 60) + "...";
    throw Error("{}: {} is {}, must be {}", where_, key.empty() ? "it" : key, text, wanted);
  }

  const json& object_;
  const std::string where_, key_;
};

class Writer {
 public:
  ordered_json object = ordered_json::object();

  template <class T>
  void operator()(const char* name, T& member) {
    if constexpr (is_optional<T>) {
      if (member) object[name] = written(*member);
    } else {
      object[name] = written(member);
    }
  }

 private:
  template <class T>
  static ordered_json written(T& value) {
    if constexpr (is_vector<T>) {
      ordered_json list = ordered_json::array();
      for (auto& item : value) list.push_back(written(item));
      return list;
    } else if constexpr (Visited<T, Writer>) {
      Writer inner;
      value.fields(inner);
      return std::move(inner.object);
    } else {
      return value;
    }
  }
  static ordered_json written(CurvePoint& point) {
    ordered_json list = {point.tokens, point.loss};  // NaN is dumped as null
    if (!std::isfinite(point.loss)) list[1] = nullptr;
    if (point.accuracy) list.push_back(*point.accuracy);
    return list;
  }
};

template <class T>
T read_as(const json& value, const std::string& where) {
  T result;
  Reader reader(value, where, "");
  result.fields(reader);
  return result;
}

}  // namespace

bool Contender::every_rate_failed() const {
  return !grid.empty() && std::all_of(grid.begin(), grid.end(), [](const GridPoint& point) {
    return point.failed.has_value();
  });
}

bool Contender::best_is_at_edge() const {
  if (!best_lr || grid.size() < 2) return false;
  const auto [least, most] = std::minmax_element(
      grid.begin(), grid.end(), [](const GridPoint& a, const GridPoint& b) { return a.lr < b.lr; });
  return *best_lr == least->lr || *best_lr == most->lr;
}

const Contender& ComparisonResults::contender(const std::string& name) const {
  for (const Contender& candidate : contenders)
    if (candidate.name == name) return candidate;
  std::vector<std::string> names;
  for (const Contender& candidate : contenders) names.push_back(candidate.name);
  throw Error("no contender is called '{}'; there are {}{}", name, join(names, ", "),
              did_you_mean(name, names));
}

ComparisonResults read_results(const std::string& path) {
  json content;
  try {
    content = json::parse(read_file(path));
  } catch (const json::parse_error& e) {
    throw Error("{}: is not JSON: {}", path, e.what());
  }
  auto results = read_as<ComparisonResults>(content, path);
  check_results(results, path);
  return results;
}

Evaluation read_evaluation(const json& json, const std::string& where) {
  return read_as<Evaluation>(json, where);
}

ordered_json results_json(const ComparisonResults& results) {
  ComparisonResults copy = results;  // fields() hands out members that may be written
  Writer writer;
  copy.fields(writer);
  return std::move(writer.object);
}

namespace {

void check_evaluation(const ComparisonResults& results, const RunResult& run,
                      const std::string& where) {
  const Evaluation& evaluation = *run.evaluation;
  if (evaluation.sample_nats.size() != evaluation.sample_targets.size())
    throw Error("{}: run {}: evaluation has {} sample_nats and {} sample_targets", where, run.name,
                evaluation.sample_nats.size(), evaluation.sample_targets.size());
  if (!evaluation.sample_right.empty() &&
      evaluation.sample_right.size() != evaluation.sample_targets.size())
    throw Error("{}: run {}: evaluation has {} sample_right and {} sample_targets", where, run.name,
                evaluation.sample_right.size(), evaluation.sample_targets.size());
  if (!results.task.empty() && !evaluation.accuracy)
    throw Error("{}: run {}: evaluation has no accuracy, which the task '{}' is judged by", where,
                run.name, results.task);
}

}  // namespace

void check_results(const ComparisonResults& results, const std::string& where) {
  if (results.format != 1)
    throw Error("{}: format is {}, this program reads format 1; use the ceiling that wrote it ({})",
                where, results.format, results.versions.ceiling);
  const std::set<std::string> known = {"tokens", "flops", "time"};
  for (const std::string& budget : results.budgets)
    if (!known.contains(budget))
      throw Error("{}: budgets has '{}', must be of tokens, flops, time", where, budget);
  if (std::find(results.budgets.begin(), results.budgets.end(), "tokens") == results.budgets.end())
    throw Error("{}: budgets must have 'tokens'", where);
  if (results.contenders.empty()) throw Error("{}: contenders is empty", where);
  std::set<std::string> names;
  for (const Contender& contender : results.contenders)
    if (!names.insert(contender.name).second)
      throw Error("{}: two contenders are called '{}'", where, contender.name);
  if (!names.contains(results.baseline))
    throw Error("{}: baseline is '{}', must be the name of a contender", where, results.baseline);
  std::set<std::string> runs, judged;
  for (const RunResult& run : results.runs) {
    if (!runs.insert(run.name).second) throw Error("{}: two runs are called '{}'", where, run.name);
    if (!names.contains(run.contender))
      throw Error("{}: run {}: contender '{}' is not in contenders", where, run.name,
                  run.contender);
    if (!known.contains(run.budget))
      throw Error("{}: run {}: budget is '{}', must be of tokens, flops, time", where, run.name,
                  run.budget);
    if (!run.grid_only) {
      const std::optional<double>& best = results.contender(run.contender).best_lr;
      if (best != run.lr)
        throw Error(
            "{}: run {}: lr is {}, the best of its contender is {}; a run at another rate must be "
            "grid_only",
            where, run.name, run.lr, best ? format_double(*best) : "none");
      if (!judged.insert(fmt::format("{}\n{}\n{}", run.contender, run.budget, run.seed)).second)
        throw Error("{}: run {}: a second run of {} with budget {} and seed {}", where, run.name,
                    run.contender, run.budget, run.seed);
    }
    if (!run.grid_only && !run.evaluation == !run.failed)
      throw Error("{}: run {}: must have either 'evaluation' or 'failed'", where, run.name);
    if (run.evaluation) check_evaluation(results, run, where);
  }
}

}  // namespace ceiling
