// ceiling checkpoint list RUN | ceiling checkpoint verify RUN
#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/store.h"
#include "train/command.h"

namespace ceiling {
namespace {

// A run folder holds its checkpoints in a folder of its own; that one may be named as well.
CheckpointStore store_of(const std::string& run) {
  if (!fs::is_directory(run)) throw Error("{}: no such folder; give a run folder", run);
  const std::string inside = run + "/checkpoints";
  return CheckpointStore(fs::is_directory(inside) ? inside : run);
}

std::string number_text(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

std::string tags_text(const CheckpointInfo& info, bool latest) {
  std::vector<std::string> tags;
  if (!info.problem.empty()) return "damaged: " + info.problem;
  if (latest) tags.push_back("latest");
  if (info.best) tags.push_back("best");
  if (info.permanent) tags.push_back("permanent");
  return join(tags, ", ");
}

int list(const std::string& run) {
  const CheckpointStore store = store_of(run);
  const std::vector<CheckpointInfo> infos = store.list();
  if (infos.empty()) {
    std::printf("%s: no checkpoints\n", store.folder().c_str());
    return 0;
  }
  const auto latest = std::find_if(infos.rbegin(), infos.rend(),
                                   [](const CheckpointInfo& i) { return i.problem.empty(); });
  fmt::print("{:<14}  {:<20}  {:>10}  {:>8}  {:>8}\n", "checkpoint", "saved", "size", "loss",
             "valid");
  for (const CheckpointInfo& info : infos)
    fmt::print("{:<14}  {:<20}  {:>10}  {:>8}  {:>8}  {}\n", info.name,
               info.created.empty() ? "-" : info.created,
               info.problem.empty() ? format_bytes(static_cast<double>(info.size_bytes)) : "-",
               number_text(info.loss_nats), number_text(info.valid_nats),
               tags_text(info, latest != infos.rend() && &info == &*latest));
  return 0;
}

// Reads every byte. 1 if anything is damaged.
int verify(const std::string& path) {
  std::vector<std::string> checkpoints;
  const std::string name = fs::path(path + "/").parent_path().filename();
  if (fs::exists(path + "/" + kCheckpointManifest) || checkpoint_step(name) >= 0)
    checkpoints.push_back(path);
  else
    for (const CheckpointInfo& info : store_of(path).list()) checkpoints.push_back(info.path);
  if (checkpoints.empty()) throw Error("{}: no checkpoints", path);
  bool damaged = false;
  for (const std::string& folder : checkpoints) {
    try {
      const Checkpoint checkpoint(folder);
      fmt::print("{}: intact, {} files, {}\n", checkpoint.path(),
                 checkpoint.manifest().files.size(),
                 format_bytes(static_cast<double>(checkpoint.manifest().size_bytes())));
    } catch (const Error& e) {
      fmt::print("{}: DAMAGED: {}\n", folder, e.what());
      damaged = true;
    }
  }
  return damaged ? 1 : 0;
}

const RegisterCommand kCheckpoint(
    65, "checkpoint", "list the checkpoints of a run, verify every byte of them",
    [](CLI::App& app) {
      const auto path = std::make_shared<std::string>();
      app.require_subcommand(1);
      CLI::App* listing = app.add_subcommand("list", "step, time, size, losses, and what is kept");
      listing->add_option("run", *path, "run folder")->required();
      CLI::App* checking = app.add_subcommand("verify", "read all files and compare their hashes");
      checking->add_option("path", *path, "run folder, or one checkpoint")->required();
      return [path, listing] { return *listing ? list(*path) : verify(*path); };
    });

}  // namespace
}  // namespace ceiling
