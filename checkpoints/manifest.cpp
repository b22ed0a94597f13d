#include "checkpoints/manifest.h"

#include <future>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"

namespace ceiling {

namespace {

using nlohmann::json;

constexpr char kFormat[] = "ceiling-checkpoint";
constexpr int kVersion = 1;

// The one way a manifest is written: the hash is over the text without it.
std::string manifest_text(json content) {
  content.erase("sha256");
  content["sha256"] = sha256_hex(content.dump(1));
  return content.dump(1) + "\n";
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

}  // namespace

int64_t CheckpointManifest::size_bytes() const {
  return std::accumulate(files.begin(), files.end(), int64_t{0},
                         [](int64_t sum, const FileRecord& f) { return sum + f.size_bytes; });
}

const FileRecord* CheckpointManifest::find(const std::string& name) const {
  for (const FileRecord& file : files)
    if (file.name == name) return &file;
  return nullptr;
}

void write_manifest(const std::string& folder, const CheckpointManifest& manifest) {
  json files = json::object();
  for (const FileRecord& file : manifest.files)
    files[file.name] = {{"bytes", file.size_bytes}, {"sha256", file.sha256}};
  const json content = {{"format", kFormat},           {"version", kVersion},
                        {"step", manifest.step},       {"permanent", manifest.permanent},
                        {"created", manifest.created}, {"files", files}};
  write_hashed(folder + "/" + kCheckpointManifest, manifest_text(content));
}

CheckpointManifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kCheckpointManifest;
  if (!fs::exists(path)) throw Error("{}: missing; the folder is not a complete checkpoint", path);
  const std::string text = read_file(path);
  const json content = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!content.is_object() || content.value("format", json()) != kFormat)
    throw Error("{}: not a checkpoint manifest, or damaged ({} bytes)", path, text.size());
  if (content.value("version", json()) != kVersion)
    throw Error("{}: format version {}, this program reads version {}", path,
                content.value("version", json()).dump(), kVersion);
  if (manifest_text(content) != text)
    throw Error("{}: does not match its own hash; it was changed or damaged", path);
  CheckpointManifest manifest;
  manifest.step = content.at("step");
  manifest.permanent = content.at("permanent");
  manifest.created = content.at("created");
  for (const auto& [name, file] : content.at("files").items()) {
    if (!is_plain_name(name)) throw Error("{}: '{}' is not a file name", path, name);
    manifest.files.push_back({name, file.at("bytes"), file.at("sha256")});
  }
  return manifest;
}

void verify_file(const std::string& folder, const FileRecord& file, Verify how) {
  const std::string path = folder + "/" + file.name;
  std::error_code failure;
  const auto size_bytes = static_cast<int64_t>(fs::file_size(path, failure));
  if (failure == std::errc::no_such_file_or_directory)
    throw Error("{}: missing, the manifest says {} bytes", path, file.size_bytes);
  if (failure) throw Error("{}: cannot read: {}", path, failure.message());
  if (size_bytes != file.size_bytes)
    throw Error("{}: {} bytes, the manifest says {}", path, size_bytes, file.size_bytes);
  if (how == Verify::kSizes) return;
  const std::string found = sha256_file(path);
  if (found != file.sha256)
    throw Error("{}: SHA-256 is {}, the manifest says {}; the file was changed or damaged", path,
                found.substr(0, 16), file.sha256.substr(0, 16));
}

void verify_files(const std::string& folder, const CheckpointManifest& manifest, Verify how) {
  for (const FileRecord& file : manifest.files) verify_file(folder, file, Verify::kSizes);
  if (how == Verify::kSizes) return;
  std::vector<std::future<void>> checks;  // hashing is bound by one core per file
  for (const FileRecord& file : manifest.files)
    checks.push_back(std::async(std::launch::async, verify_file, folder, file, how));
  for (auto& check : checks) check.get();
}

}  // namespace ceiling
