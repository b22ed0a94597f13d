#include "train/compare/run_record.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "checkpoints/store.h"

namespace ceiling {

namespace {

RunRecord read_metrics(const std::string& path) {
  RunRecord record;
  std::optional<double> tokens_per_step;
  for (const std::string& line : split(read_file(path), '\n')) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;
    const std::string event = json.value("event", "");
    const int64_t step = json.value("step", int64_t{0});
    if (event == "step") {
      const auto tokens = json.at("tokens").get<double>();
      tokens_per_step = tokens / static_cast<double>(step);
      const auto& loss = json.at("loss_nats");
      if (loss.is_number()) record.train.push_back({tokens, loss.get<double>(), {}});
      record.last_step = step;
      record.data_hash = json.at("data_hash").get<std::string>();
      const auto speed = json.find("tokens_per_s");
      if (speed != json.end() && speed->is_number() && record.train.size() > 1)
        record.tokens_per_s.push_back(speed->get<double>());
    } else if (event == "valid" && tokens_per_step && json.at("loss_nats").is_number()) {
      CurvePoint point{
          *tokens_per_step * static_cast<double>(step), json.at("loss_nats").get<double>(), {}};
      if (json.contains("accuracy")) point.accuracy = json.at("accuracy").get<double>();
      record.valid.push_back(point);
      record.valid_step = step;
    } else if (event == "checkpoint") {
      record.saved_step = step;
    }
  }
  return record;
}

}  // namespace

RunRecord read_record(const std::string& run_dir) {
  const std::string path = run_dir + "/metrics.jsonl";
  if (!fs::exists(path)) return {};
  try {
    return read_metrics(path);
  } catch (const nlohmann::json::exception& problem) {
    throw Error("{}: is damaged ({}); remove the folder, and the run is made again", path,
                problem.what());
  }
}

bool is_finished(const std::string& run_dir, int64_t steps) {
  const RunRecord record = read_record(run_dir);
  return record.valid_step == steps && record.saved_step == steps;
}

bool has_checkpoint(const std::string& run_dir, int64_t steps) {
  for (const CheckpointInfo& info : CheckpointStore(run_dir + "/checkpoints").list())
    if (info.step == steps && info.problem.empty()) return true;
  return false;
}

std::string progress_text(const std::string& run_dir, int64_t steps) {
  const std::string path = run_dir + "/metrics.jsonl";
  if (!fs::exists(path)) return "starting";
  // The end alone: a run may have many lines, and this is asked often.
  constexpr int64_t kEnd = 4096;
  File file(path, "rb");
  file.seek(std::max<int64_t>(0, static_cast<int64_t>(fs::file_size(path)) - kEnd));
  std::string end(kEnd, '\0');
  end.resize(file.read(end.data(), end.size()));
  std::string text = "starting";
  for (const std::string& line : split(end, '\n')) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.value("event", "") == "step" && json.at("loss_nats").is_number())
      text = fmt::format("step {}/{}, loss {:.4f}", json.at("step").get<int64_t>(), steps,
                         json.at("loss_nats").get<double>());
  }
  return text;
}

}  // namespace ceiling
