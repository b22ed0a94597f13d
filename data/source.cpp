#include "data/source.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/stop.h"
#include "base/text.h"
#include "data/named_source.h"
#include "data/prepare.h"
#include "data/shard.h"
#include "data/text_files.h"

namespace ceiling {

namespace {

using nlohmann::json;

// Held while one process prepares a dataset. The file lies beside the dataset and goes away with
// the lock.
class PrepareLock {
 public:
  explicit PrepareLock(const std::string& dataset) : path_(dataset + ".lock") {
    for (bool said = false; !try_lock();) {
      if (!said) spdlog::info("{}: another process prepares it; waiting", dataset);
      said = true;
      stop::check();
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    stop::register_pending(fs::absolute(path_).c_str());
  }
  ~PrepareLock() {
    stop::unregister_pending(fs::absolute(path_).c_str());
    ::unlink(path_.c_str());
    ::close(descriptor_);
  }
  PrepareLock(const PrepareLock&) = delete;
  PrepareLock& operator=(const PrepareLock&) = delete;

 private:
  bool try_lock() {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) throw Error("{}: cannot be created: {}", path_, std::strerror(errno));
    struct stat opened {
    }, named{};
    // A file system without locks (ENOLCK, EOPNOTSUPP): go on; the dataset appears by one rename
    // anyway.
    const bool locked = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    // Its former owner may have removed the file between open and flock: then another one may hold
    // the new file.
    if (locked && ::fstat(descriptor_, &opened) == 0 && ::stat(path_.c_str(), &named) == 0 &&
        opened.st_ino == named.st_ino)
      return true;
    ::close(descriptor_);
    return false;
  }

  std::string path_;
  int descriptor_ = -1;
};

std::string normalised(const std::string& path) {
  std::string clean = fs::path(expand_home(path)).lexically_normal().string();
  while (clean.size() > 1 && clean.back() == '/') clean.pop_back();
  return clean;
}

std::string text_of(const std::string& path) {
  int64_t ignored = 0;  // a name need not be UTF-8, but JSON must
  return repair_utf8(path, &ignored);
}

json file_record(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0)
    throw Error("{}: cannot be read: {}", path, std::strerror(errno));
  return {{"size_bytes", status.st_size},
          {"modified_ns", int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec}};
}

// What decides the dataset, as far as it can be told without reading the text. Without "files" if
// they are gone, as on another machine.
json record_of(const SourceRequest& request) {
  json record = {{"source", text_of(request.source)},
                 {"tokenizer", text_of(request.tokenizer)},
                 {"valid_share", request.valid_share},
                 {"bos", request.bos}};
  if (request.tokenizer.ends_with(".model") && fs::exists(expand_home(request.tokenizer)))
    record["tokenizer_sha256"] = sha256_file(expand_home(request.tokenizer));
  if (is_named_source(request.source)) return record;
  record["text_key"] = text_of(request.text_key);
  record["document_separator"] = text_of(unescape(request.document_separator));
  try {
    json files = json::object();
    for (const std::string& path : find_text_files({request.source}).paths)
      files[text_of(fs::absolute(path).lexically_normal().string())] = file_record(path);
    record["files"] = files;
  } catch (const Error&) {
    // The dataset, if it is there, does not need them any more; else opening the source says what
    // is wrong.
  }
  return record;
}

std::string shown(const json& value) { return value.is_null() ? "none" : value.dump(); }

void compare_files(const json& had, const json& wanted, std::vector<std::string>& differences) {
  for (const auto& [path, record] : had.items())
    if (!wanted.contains(path))
      differences.push_back(fmt::format("file {} is gone", path));
    else if (wanted[path].at("size_bytes") != record.at("size_bytes"))
      differences.push_back(fmt::format("file {} had {} bytes, has {}", path,
                                        shown(record.at("size_bytes")),
                                        shown(wanted[path].at("size_bytes"))));
    else if (wanted[path] != record)
      differences.push_back(fmt::format("file {} was modified since", path));
  for (const auto& [path, record] : wanted.items())
    if (!had.contains(path)) differences.push_back(fmt::format("file {} is new", path));
}

// Whether the files hold what the dataset was made of, although they lie elsewhere or were touched,
// as by a copy to another machine.
bool same_content(const SourceRequest& request, const std::string& dataset,
                  const json& provenance) {
  const json source = provenance.value("source", json::object());
  const json recorded = source.is_object() ? source.value("files", json::array()) : json::array();
  const std::vector<std::string> paths = find_text_files({request.source}).paths;
  if (recorded.size() != paths.size()) return false;
  for (size_t i = 0; i < paths.size(); ++i)
    if (recorded[i].at("size_bytes") != fs::file_size(paths[i])) return false;
  spdlog::info("{}: its text has other paths or times than recorded; comparing the content",
               dataset);
  for (size_t i = 0; i < paths.size(); ++i)
    if (recorded[i].at("sha256") != sha256_file(paths[i])) return false;
  return true;
}

void require_same(const SourceRequest& request, const std::string& path, const json& wanted) {
  const DatasetReader dataset(path);
  const json provenance = dataset.manifest().value("provenance", json::object());
  const json had = provenance.is_object() ? provenance.value("request", json()) : json();
  if (!had.is_object())
    throw Error(
        "{}: exists, but was not prepared from a data.source; leave data.source out to train on "
        "it, or name another "
        "data.path",
        path);
  const auto is_same = [&](const char* key) {
    return wanted.contains(key) && wanted.at(key) == had.value(key, json());
  };
  const bool same_files =
      wanted.contains("files") &&
      (is_same("files") || (had.contains("files") && same_content(request, path, provenance)));
  std::vector<std::string> differences;
  for (const auto& [key, value] : wanted.items()) {
    if (key.starts_with("tokenizer") && (request.tokenizer.empty() || is_same("tokenizer_sha256")))
      continue;
    if (same_files && (key == "files" || key == "source")) continue;
    const json before = had.value(key, json());
    if (key == "files" && before.is_object())
      compare_files(before, value, differences);
    else if (before != value)
      differences.push_back(fmt::format("data.{} was {}, is {}", key, shown(before), shown(value)));
  }
  if (!differences.empty())
    throw Error(
        "{}: was prepared from something else: {}; name another data.path, or remove the folder to "
        "have it prepared "
        "again",
        path, join(differences, "; "));
}

}  // namespace

std::unique_ptr<TextSource> open_source(const std::string& source, const TextOptions& options) {
  if (is_named_source(source)) return named_source(source);
  try {
    return file_source({source}, options);
  } catch (const Error& problem) {
    throw Error("data.source: {}; or is it bible-kjv or dict-gcide?", problem.what());
  }
}

void ensure_prepared(const SourceRequest& request) {
  const std::string path = normalised(request.path);
  const json record = record_of(request);
  if (fs::exists(path)) return require_same(request, path, record);
  const std::string parent = fs::path(path).parent_path().string();
  require_writable_folder(parent.empty() ? "." : parent, "the folder of data.path");
  const PrepareLock lock(path);
  if (fs::exists(path)) return require_same(request, path, record);  // by whom we waited for
  TextOptions text;
  text.text_key = request.text_key;
  text.document_separator = unescape(request.document_separator);
  PrepareOptions options;
  options.tokenizer = request.tokenizer;
  options.path = path;
  options.valid_share = request.valid_share;
  options.bos = request.bos;
  options.min_split_tokens = request.min_split_tokens;
  prepare(*open_source(request.source, text), options, record);
}

}  // namespace ceiling
