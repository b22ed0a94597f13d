#include "train/compare/measure.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace ceiling {

namespace {

// A speed of each line, as `read` takes it out; there is one at least.
template <class Speed, class Read>
std::vector<Speed> speeds_of(const std::string& path, const Read& read) {
  std::vector<Speed> speeds;
  try {
    for (const std::string& line : split(read_file(path), '\n'))
      if (!line.empty()) speeds.push_back(read(nlohmann::json::parse(line)));
  } catch (const nlohmann::json::exception&) {
    speeds.clear();
  }
  if (speeds.empty())
    throw Error("{}: is damaged; remove it, and the comparison measures again", path);
  return speeds;
}

}  // namespace

std::string Measurements::config_file(const MatchedContender& contender) const {
  return comparison_.compare.dir + "/runs/" + contender.name + ".yaml";
}

std::string Measurements::decode_file(const MatchedContender& contender) const {
  return comparison_.compare.dir + "/measured/" + contender.name + ".decode.jsonl";
}

// As many tokens a step at every length.
std::vector<Measurements::Training> Measurements::lengths(const MatchedContender& contender) const {
  const RunConfig config = comparison_.recipe_with(contender.model);
  const int64_t context = config.data.context;
  std::set<int64_t> all(comparison_.compare.speed_contexts.begin(),
                        comparison_.compare.speed_contexts.end());
  all.insert(context);
  std::vector<Training> lengths;
  for (const int64_t length : all) {
    const auto scaled = [&](int64_t n) { return std::max<int64_t>(1, n * context / length); };
    const auto micro = config.train.micro_batch;
    lengths.push_back({length, scaled(config.train.global_batch),
                       micro ? std::to_string(scaled(*micro)) : "auto",
                       fmt::format("{}/measured/{}.train-{}.json", comparison_.compare.dir,
                                   contender.name, length)});
  }
  return lengths;
}

void Measurements::write_config(const MatchedContender& contender) const {
  RunConfig config = comparison_.recipe_with(contender.model);
  write_file_atomic(config_file(contender), resolved_yaml(config));
}

std::vector<Job> Measurements::missing(const MatchedContender& contender) const {
  std::vector<Job> jobs;
  const auto add = [&](std::string what, const std::string& bench,
                       const std::vector<std::string>& options, std::string out) {
    Job job;
    job.name = contender.name + ": " + what;
    job.arguments = {"bench", bench, config_file(contender)};
    job.arguments.insert(job.arguments.end(), options.begin(), options.end());
    const RunConfig config = comparison_.recipe_with(contender.model);
    const TrainSection& t = config.train;
    job.made_by = fmt::format(
        "{} {}precision {}, recompute {}, cuda_graph {}, deterministic {}, device {}, threads {}",
        command_text(options), to_yaml(contender.model), t.precision, t.recompute, t.cuda_graph,
        t.deterministic, config.run.device, config.run.threads.value_or(0));
    job.log = out + ".log";
    job.out = std::move(out);
    if (!has_output(job)) jobs.push_back(std::move(job));
  };
  const std::string vocab = std::to_string(vocab_size_);
  for (const Training& length : lengths(contender))
    add(fmt::format("speed of training at {} tokens", length.context), "model",
        {fmt::format("data.context={}", length.context),
         fmt::format("train.global_batch={}", length.global_batch),
         "train.micro_batch=" + length.micro_batch, "--vocab", vocab, "--json"},
        length.file);
  std::vector<std::string> decode = {
      "--vocab", vocab, "--json", "--batch", std::to_string(comparison_.compare.decode_batch),
      "--length"};
  std::vector<int64_t> at = comparison_.compare.decode_lengths;
  if (at.empty()) at = {comparison_.recipe_with(contender.model).data.context};
  std::sort(at.begin(), at.end());
  for (const int64_t length : at) decode.push_back(std::to_string(length));
  add("speed of decoding", "decode", decode, decode_file(contender));
  return jobs;
}

std::vector<TrainingSpeed> Measurements::training(const MatchedContender& contender) const {
  std::vector<TrainingSpeed> speeds;
  for (const Training& length : lengths(contender)) {
    const auto read = [&](const nlohmann::json& line) {
      TrainingSpeed speed{length.context, line.at("tokens_per_s"), line.at("peak_bytes")};
      if (line.contains("fastest_step_ms"))  // files of before do not say it
        speed.unevenness =
            line.at("step_ms").get<double>() / line.at("fastest_step_ms").get<double>();
      return speed;
    };
    speeds.push_back(speeds_of<TrainingSpeed>(length.file, read).front());
  }
  return speeds;
}

std::vector<DecodingSpeed> Measurements::decoding(const MatchedContender& contender) const {
  return speeds_of<DecodingSpeed>(decode_file(contender), [](const nlohmann::json& line) {
    return DecodingSpeed{line.at("batch"), line.at("length"), line.at("tokens_per_s"),
                         line.at("ms_per_token"), line.at("state_bytes").get<double>()};
  });
}

}  // namespace ceiling
