#include "train/consumed_log.h"

#include <cinttypes>
#include <cstdio>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

namespace {

std::string path_of(const std::string& run_dir) { return run_dir + "/consumed.txt"; }

std::string line_of(const ConsumedStep& s) {
  return fmt::format("{} {} {} {} {:016x} {}\n", s.step, s.first_position, s.n_samples, s.n_targets,
                     s.digest, s.world_size);
}

}  // namespace

std::vector<ConsumedStep> ConsumedLog::read(const std::string& run_dir) {
  std::vector<ConsumedStep> steps;
  const std::string path = path_of(run_dir);
  if (!fs::exists(path)) return steps;
  int64_t line_number = 0;
  const std::string text = read_file(path);
  for (const std::string& line : split(text, '\n')) {
    ++line_number;
    if (line.empty()) continue;
    ConsumedStep s;
    int end = 0;
    if (std::sscanf(line.c_str(),
                    "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNx64 " %" SCNd64 "%n",
                    &s.step, &s.first_position, &s.n_samples, &s.n_targets, &s.digest,
                    &s.world_size, &end) == 6 &&
        end == static_cast<int>(line.size())) {
      steps.push_back(s);
      continue;
    }
    // A killed session may leave half a line at the end.
    if (line_number == static_cast<int64_t>(split(text, '\n').size())) break;
    throw Error("{}:{}: is no record of a step: '{}'", path, line_number, line);
  }
  return steps;
}

ConsumedLog::ConsumedLog(const std::string& run_dir, int64_t resume_step) {
  std::string kept;
  for (const ConsumedStep& step : read(run_dir))
    if (step.step <= resume_step) kept += line_of(step);
  write_file_atomic(path_of(run_dir), kept);
  file_ = std::make_unique<File>(path_of(run_dir), "ab");
}

void ConsumedLog::step(int64_t step, const std::vector<StepReport>& ranks) {
  ConsumedStep s{.step = step,
                 .first_position = ranks.front().first_position,
                 .world_size = static_cast<int64_t>(ranks.size())};
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].first_position != s.first_position + s.n_samples)
      throw Error("step {}: rank {} begins at sample {}, {} was expected", step, rank,
                  ranks[rank].first_position, s.first_position + s.n_samples);
    s.n_samples += ranks[rank].n_samples, s.n_targets += ranks[rank].n_targets;
    s.digest += ranks[rank].digest;
  }
  file_->write(line_of(s));
}

void ConsumedLog::flush() { file_->sync(); }

}  // namespace ceiling
