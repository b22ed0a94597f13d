#include "checkpoints/store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <exception>

#include "base/error.h"
#include "base/stop.h"
#include "base/text.h"

namespace ceiling {

namespace {

std::optional<double> number(const nlohmann::json& state, const char* key) {
  const auto found = state.find(key);
  if (found == state.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

// A validation loss counts only once one was measured.
std::optional<double> valid_loss(const nlohmann::json& state) {
  const auto step = number(state, "valid_step");
  return step && *step > 0 ? number(state, "valid_nats") : std::nullopt;
}

CheckpointInfo describe(const std::string& path, int64_t step) {
  CheckpointInfo info;
  info.name = checkpoint_name(step), info.path = path, info.step = step;
  try {
    const Checkpoint checkpoint(path, Verify::kSizes);
    info.created = checkpoint.manifest().created;
    info.size_bytes = checkpoint.manifest().size_bytes();
    info.permanent = checkpoint.manifest().permanent;
    info.loss_nats = number(checkpoint.state(), "loss_nats");
    info.valid_nats = valid_loss(checkpoint.state());
  } catch (const Error& e) {
    info.problem = e.what();
  }
  return info;
}

int64_t content_bytes(const CheckpointContent& content) {
  int64_t sum = 0;
  for (const auto* tensors : {&content.weights, &content.flat})
    for (const NamedTensor& tensor : *tensors) sum += static_cast<int64_t>(tensor.value.nbytes());
  return sum;
}

void write_weights(const std::string& folder, const CheckpointContent& content,
                   std::vector<FileRecord>& records) {
  records.push_back(write_safetensors(folder + "/" + kWeightsName, content.weights,
                                      {{"step", std::to_string(content.step)}}));
}

void write_texts(const std::string& folder, const CheckpointContent& content,
                 std::vector<FileRecord>& records) {
  records.push_back(write_hashed(folder + "/" + kStateName, content.state.dump(1) + "\n"));
  for (const auto& [name, text] : content.files)
    records.push_back(write_hashed(folder + "/" + name, text));
}

}  // namespace

CheckpointStore::CheckpointStore(std::string folder) : folder_(std::move(folder)) {}

std::vector<CheckpointInfo> CheckpointStore::list() const {
  std::vector<CheckpointInfo> infos;
  if (!fs::exists(folder_)) return infos;
  std::error_code failure;
  fs::directory_iterator entries(folder_, failure);
  if (failure) throw Error("{}: cannot list the checkpoints: {}", folder_, failure.message());
  for (const auto& entry : entries) {
    const int64_t step = checkpoint_step(entry.path().filename().string());
    if (step >= 0) infos.push_back(describe(entry.path().string(), step));
  }
  std::sort(infos.begin(), infos.end(),
            [](const CheckpointInfo& a, const CheckpointInfo& b) { return a.step < b.step; });
  // Of equal losses (one evaluation, several saves) the earliest is nearest to the measurement.
  CheckpointInfo* best = nullptr;
  for (CheckpointInfo& info : infos)
    if (info.problem.empty() && info.valid_nats && (!best || *info.valid_nats < *best->valid_nats))
      best = &info;
  if (best) best->best = true;
  return infos;
}

std::optional<Checkpoint> CheckpointStore::latest_valid(
    const std::function<void(const std::string&, const std::string&)>& on_skip) const {
  const std::vector<CheckpointInfo> infos = list();
  std::string newest_problem;
  for (auto info = infos.rbegin(); info != infos.rend(); ++info) {
    try {
      return Checkpoint(info->path);
    } catch (const Error& e) {
      if (newest_problem.empty()) newest_problem = e.what();
      if (on_skip) on_skip(info->name, e.what());
    }
  }
  if (infos.empty()) return std::nullopt;
  throw Error(
      "{}: none of the {} checkpoints is intact (the newest: {}); restore one, or remove "
      "the folder to start anew",
      folder_, infos.size(), newest_problem);
}

namespace {

// A rank's record of the file it wrote, or what went wrong, as one text.
std::string shard_text(const FileRecord& record) {
  return nlohmann::json{
      {"name", record.name}, {"size", record.size_bytes}, {"sha256", record.sha256}}
      .dump();
}

FileRecord shard_record(const std::string& text, int64_t rank) {
  const auto json = nlohmann::json::parse(text);
  if (json.contains("error")) throw Error("rank {}: {}", rank, json.at("error").get<std::string>());
  return {json.at("name"), json.at("size"), json.at("sha256")};
}

std::string error_text(const std::exception& e) {
  return nlohmann::json{{"error", e.what()}}.dump();
}

// What ranks other than the first do.
void save_shard(const CheckpointContent& content, const ShardRange& range, SaveMeeting& meeting) {
  const auto begun = nlohmann::json::parse(meeting.hear("folder", 0));
  if (begun.contains("error")) return;  // rank 0 tells the user, and stops the run
  const std::string key = "shard/" + std::to_string(meeting.rank());
  try {
    meeting.tell(key, shard_text(write_optimizer_shard(begun.at("path"), content.flat, range,
                                                       content.layout_hash)));
  } catch (const std::exception& e) {
    meeting.tell(key, error_text(e));
  }
}

}  // namespace

void CheckpointStore::save(const CheckpointContent& content, SaveMeeting* meeting) {
  ShardRange range = content.range;
  if (range.n_flat == 0 && !content.flat.empty()) {
    range.n_flat = content.flat.front().value.numel();
    range.pieces = {{0, range.n_flat}};
  }
  if (meeting && meeting->rank() > 0) return save_shard(content, range, *meeting);
  try {
    save_first_rank(content, range, meeting);
  } catch (const std::exception& e) {  // Error, or a file system error of the library
    throw Error(
        "{}: the checkpoint ({}) was not saved: {} ({} are free). Earlier checkpoints are "
        "untouched",
        path_of(content.step), format_bytes(static_cast<double>(content_bytes(content))), e.what(),
        format_bytes(static_cast<double>(free_bytes(folder_))));
  }
  remove_unkept(content.retention);
}

void CheckpointStore::save_first_rank(const CheckpointContent& content, const ShardRange& range,
                                      SaveMeeting* meeting) {
  std::unique_ptr<PendingFolder> pending;
  try {
    pending = std::make_unique<PendingFolder>(path_of(content.step));
  } catch (const std::exception& e) {
    if (meeting) meeting->tell("folder", error_text(e));
    throw;
  }
  if (meeting) meeting->tell("folder", nlohmann::json{{"path", pending->path()}}.dump());
  CheckpointManifest manifest;
  manifest.step = content.step;
  manifest.permanent =
      content.retention.keep_every > 0 && content.step % content.retention.keep_every == 0;
  manifest.created = utc_now();
  std::exception_ptr failure;
  const auto attempt = [&](const auto& work) {
    try {
      if (!failure) work();
    } catch (const std::exception&) {
      failure = std::current_exception();
    }
  };
  attempt([&] {
    if (!content.flat.empty())
      manifest.files.push_back(
          write_optimizer_shard(pending->path(), content.flat, range, content.layout_hash));
    write_weights(pending->path(), content, manifest.files);
    write_texts(pending->path(), content, manifest.files);
  });
  // The others write into the folder until they have said how it went. Only then may it go, or what
  // they write meanwhile would stay behind.
  for (int64_t rank = 1; meeting && rank < meeting->size(); ++rank) {
    std::string text;
    try {
      text = meeting->hear("shard/" + std::to_string(rank), rank);
    } catch (const std::exception&) {
      if (!failure) failure = std::current_exception();
      continue;
    }
    attempt([&] { manifest.files.push_back(shard_record(text, rank)); });
  }
  if (failure) std::rethrow_exception(failure);
  write_manifest(pending->path(), manifest);
  // Replaces a damaged one of the same step that the resume skipped.
  pending->commit(/*replace=*/true);
}

void CheckpointStore::remove_unkept(const Retention& retention) const {
  const std::vector<CheckpointInfo> infos = list();
  int64_t n_newer = 0;
  for (auto info = infos.rbegin(); info != infos.rend(); ++info) {
    // A damaged one neither counts nor goes: it is evidence, and takes no good one's place.
    if (!info->problem.empty()) continue;
    const bool keep =
        n_newer++ < retention.keep_last || info->permanent || (retention.keep_best && info->best);
    if (keep) continue;
    const auto lock = FolderLock::try_exclusive(info->path);
    if (!lock) continue;  // someone reads it; the next save tries again
    // Renamed first: a removal that is killed half-way leaves no half checkpoint behind.
    std::error_code failure;
    const std::string going = info->path + ".tmp-removed";
    const std::string registered = fs::absolute(going).string();
    stop::register_pending(registered.c_str());
    fs::remove_all(going, failure);
    fs::rename(info->path, going, failure);
    if (!failure) fs::remove_all(going, failure);
    stop::unregister_pending(registered.c_str());
    if (failure) spdlog::warn("{}: cannot be removed: {}", info->path, failure.message());
  }
}

void CheckpointStore::remove_abandoned() const {
  std::error_code failure;
  std::vector<fs::path> abandoned;
  for (const auto& entry : fs::directory_iterator(folder_, failure)) {
    const std::string name = entry.path().filename().string();
    const bool pending = name.find(".tmp-") != std::string::npos;
    if (pending && checkpoint_step(name.substr(0, name.find('.'))) >= 0)
      abandoned.push_back(entry.path());
  }
  for (const fs::path& path : abandoned) fs::remove_all(path, failure);
}

double CheckpointStore::bytes_needed(int64_t n_flat, int64_t keep_last) const {
  constexpr double kBytesPerParameter = 12;  // master, m, v
  int64_t n_present = 0;
  for (const CheckpointInfo& info : list()) n_present += info.problem.empty() && !info.permanent;
  // The oldest goes only after the new one is durable: one more than is kept.
  const int64_t n_new = std::max<int64_t>(1, keep_last + 1 - n_present);
  return kBytesPerParameter * static_cast<double>(n_flat * n_new);
}

}  // namespace ceiling
