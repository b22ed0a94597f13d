#include "train/compare/spec.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

namespace {
const std::vector<std::string> kBudgets = {"tokens", "flops", "time"};
}  // namespace

void CompareSection::fields(Fields& f) {
  f("title", title, "heading of the report; empty: the names of the contenders");
  f("dir", dir, IsPath{}, "folder of the comparison: its runs, measurements and report; needed");
  f("lr", lr, MoreThan{0}, "grid of peak learning rates, the same for every contender");
  f("seeds", seeds, Between{1, 1000},
    "runs at the best rate of each contender, with run.seed, run.seed + 1, ...");
  f("match", match,
    "the model key that is solved for so that all have as many parameters (without embedding and "
    "head) as `match_to`: d_ff, n_layers, or none; a contender may have its own");
  f("match_to", match_to, "the contender that the others are matched to; empty: the first");
  f("tolerance", tolerance, Between{0, 1}, "largest difference in parameters that is accepted");
  f("budgets", budgets,
    "what is held equal, a set of runs each: tokens, always; flops and time: what the first "
    "contender's tokens cost, spent on as many steps as it buys each");
  f("jobs", jobs, Between{1, 1024},
    "runs that train at the same time, spread over the GPUs if there are several; speed is "
    "measured alone");
  f("keep_checkpoints", keep_checkpoints,
    "false: the checkpoints of a run are removed once it is evaluated, or not the best of its "
    "grid");
  f("speed_contexts", speed_contexts, AtLeast{1},
    "further lengths at which the speed of training is measured");
  f("decode_lengths", decode_lengths, AtLeast{0},
    "tokens before, for the speed and state of decoding; empty: data.context");
  f("decode_batch", decode_batch, AtLeast{1}, "rows decoded at a time");
  f("recall", recall,
    "language models: also probe what is recalled of the context, untrained (`ceiling eval "
    "--recall`)");
  f("recall_contexts", recall_contexts, AtLeast{1}, "lengths of the probes; empty: data.context");
  f("recall_samples", recall_samples, AtLeast{1}, "sequences per probe and length");
}

namespace {

[[noreturn]] void fail(const ConfigNode& node, const std::string& message) {
  throw Error("{}: {}", node.where, message);
}

void check_compare(const CompareSection& compare, const ConfigNode& written) {
  if (compare.dir.empty())
    fail(written, "compare.dir is not set; it names the folder of the comparison");
  if (compare.lr.empty())
    fail(written, "compare.lr is not set; give a grid of rates, as in lr: [1e-3, 2e-3, 4e-3]");
  if (std::set<double>(compare.lr.begin(), compare.lr.end()).size() != compare.lr.size())
    fail(written, "compare.lr names a rate twice");
  for (const std::string& budget : compare.budgets)
    if (std::find(kBudgets.begin(), kBudgets.end(), budget) == kBudgets.end())
      fail(written, fmt::format("compare.budgets: '{}' is not one of {}{}", budget,
                                join(kBudgets, ", "), did_you_mean(budget, kBudgets)));
}

// Of a folder that has files beside it, runs/NAME.yaml and its log.
bool is_name(const std::string& text) {
  return !text.empty() && text.size() <= 60 &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) {
                       return c < 0x80 && (std::isalnum(c) || c == '-' || c == '_' || c == '.');
                     }) &&
         text[0] != '.' && !text.ends_with(".yaml") && !text.ends_with(".log");
}

ContenderSpec read_contender(const std::string& name, const ConfigNode& node,
                             const ConfigNode* shared, const std::string& match) {
  const std::string key = "contenders." + name;
  if (!is_name(name))
    fail(node, fmt::format("contenders: '{}' names folders; use letters, digits, - _ . and "
                           "no ending of a file",
                           name));
  if (node.kind != ConfigNode::Kind::kMap)
    fail(node, key + " must be a map, as in {model: {architecture: llama}}");
  static const std::vector<std::string> kKeys = {"model", "match"};
  for (const auto& [known, value] : node.entries)
    if (std::find(kKeys.begin(), kKeys.end(), known) == kKeys.end())
      fail(value, fmt::format("{}.{}: a contender has the keys {} alone{}; everything else is "
                              "equal for all of them",
                              key, known, join(kKeys, " and "), did_you_mean(known, kKeys)));
  const ConfigNode* model = node.find("model");
  if (!model || model->kind != ConfigNode::Kind::kMap)
    fail(node, key + ".model is not set; it has the architecture and its keys");
  const ConfigNode* own_match = node.find("match");
  if (own_match && (own_match->kind != ConfigNode::Kind::kScalar || own_match->text.empty()))
    fail(*own_match, key + ".match: name one key of the model, such as d_ff or n_layers, or none");
  return {name, shared ? overlay(*shared, *model) : *model, own_match ? own_match->text : match};
}

}  // namespace

RunConfig Comparison::run(const ConfigNode& model, const std::string& dir, double lr, int64_t seed,
                          int64_t steps) const {
  ConfigNode node = recipe;
  set_by_path(node, "model", model);
  set_by_path(node, "run.dir", ConfigNode::scalar(dir));
  set_by_path(node, "run.seed", ConfigNode::scalar(std::to_string(seed)));
  set_by_path(node, "train.lr", ConfigNode::scalar(format_double(lr)));
  const RunConfig shared = recipe_with(model);
  // The same shape over another number of steps: the warm-up keeps its share.
  const int64_t all = shared.total_steps();
  const auto warmup =
      static_cast<int64_t>(std::llround(static_cast<double>(shared.train.warmup_steps) *
                                        static_cast<double>(steps) / static_cast<double>(all)));
  set_by_path(node, "train.warmup_steps",
              ConfigNode::scalar(std::to_string(std::min(warmup, steps - 1))));
  set_by_path(node, "train.tokens", ConfigNode::scalar("none"));
  set_by_path(node, "train.steps", ConfigNode::scalar(std::to_string(steps)));
  return read_run_config(node);
}

RunConfig Comparison::recipe_with(const ConfigNode& model) const {
  ConfigNode node = recipe;
  set_by_path(node, "model", model);
  set_by_path(node, "run.dir", ConfigNode::scalar(compare.dir));
  set_by_path(node, "train.lr", ConfigNode::scalar(format_double(compare.lr.front())));
  return read_run_config(node);
}

Comparison load_comparison(const std::string& path, const std::vector<std::string>& overrides) {
  ConfigNode root = load_config_file(path);
  for (const std::string& assignment : overrides) apply_override(root, assignment);
  Comparison comparison;
  comparison.path = path;
  const ConfigNode* compare = root.find("compare");
  if (!compare)
    throw Error(
        "{}: has no `compare` section; a comparison needs compare.dir, compare.lr and "
        "contenders (a single run is started with `ceiling train`)",
        path);
  parse_config(comparison.compare, *compare, "compare");
  check_compare(comparison.compare, *compare);
  for (const char* key : {"run.dir", "train.lr"})
    if (const ConfigNode* set = root.find_path(key))
      fail(*set, fmt::format("{} is set by the comparison; {}", key,
                             std::string(key) == "run.dir" ? "set compare.dir"
                                                           : "give the rates as compare.lr"));
  const ConfigNode* contenders = root.find("contenders");
  if (!contenders || contenders->kind != ConfigNode::Kind::kMap || contenders->entries.size() < 2)
    throw Error(
        "{}: contenders: name two or more, as in\n"
        "  contenders:\n    llama: {{model: {{architecture: llama}}}}",
        contenders ? contenders->where : path);
  const ConfigNode* shared = root.find("model");
  for (const auto& [name, node] : contenders->entries)
    comparison.contenders.push_back(read_contender(name, node, shared, comparison.compare.match));
  comparison.recipe = root;
  std::erase_if(comparison.recipe.entries, [](const auto& entry) {
    return entry.first == "compare" || entry.first == "contenders" || entry.first == "model";
  });
  std::vector<std::string> names;
  for (const ContenderSpec& contender : comparison.contenders) names.push_back(contender.name);
  std::string& match_to = comparison.compare.match_to;
  if (match_to.empty()) match_to = names[0];
  if (std::find(names.begin(), names.end(), match_to) == names.end())
    fail(*compare, fmt::format("compare.match_to: '{}' is not one of {}{}", match_to,
                               join(names, ", "), did_you_mean(match_to, names)));
  for (const ContenderSpec& contender : comparison.contenders) {
    const ConfigNode* model = contenders->find(contender.name)->find("model");
    const ConfigNode* width = model->find("d_ff");
    if (width && contender.match == "d_ff" && contender.name != match_to)
      fail(*width, fmt::format("contenders.{}.model.d_ff is solved for; leave it out, or set "
                               "contenders.{}.match: none",
                               contender.name, contender.name));
  }
  if (comparison.compare.title.empty()) comparison.compare.title = join(names, ", ");
  for (const ContenderSpec& contender : comparison.contenders) {
    RunConfig config;
    try {
      config = comparison.recipe_with(contender.model);
    } catch (const Error& error) {
      throw Error("contenders.{}: {}", contender.name, error.what());
    }
    if (!config.data.mixture.empty())
      throw Error("{}: data.mixture: a comparison is evaluated on one dataset; give data.path",
                  path);
    if (!config.train.init_from.empty())
      throw Error(
          "{}: train.init_from: contenders start from random weights, because no other start is "
          "the same for all of them; leave it out",
          path);
    if (!config.eval.every)
      throw Error("{}: eval.every: a comparison needs evaluations; leave it out or give a number",
                  path);
  }
  return comparison;
}

}  // namespace ceiling
