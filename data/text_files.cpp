#include "data/text_files.h"

#include <glob.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace ceiling {

namespace {

// "a/x.txt.zst" -> ".txt"
std::string text_suffix(const fs::path& path) {
  const fs::path last = path.extension();
  const bool compressed = last == ".gz" || last == ".dz" || last == ".zst";
  return (compressed ? path.stem().extension() : last).string();
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with("."); }

bool is_text_file(const fs::path& path) {
  const std::string suffix = text_suffix(path);
  return suffix == ".txt" || suffix == ".jsonl" || suffix == ".ndjson";
}

void add_if_text(const fs::path& path, TextFiles& files) {
  if (is_hidden(path) || !is_text_file(path))
    ++files.n_skipped;
  else
    files.paths.push_back(path.string());
}

void add_folder(const fs::path& folder, TextFiles& files) {
  std::vector<fs::path> found;
  try {
    for (auto entry = fs::recursive_directory_iterator(folder);
         entry != fs::recursive_directory_iterator(); ++entry) {
      if (entry->is_directory()) {
        if (is_hidden(entry->path())) entry.disable_recursion_pending();
      } else if (entry->is_regular_file()) {
        found.push_back(entry->path());
      }
    }
  } catch (const fs::filesystem_error& failure) {
    throw Error("{}: cannot read the folder: {}", folder.string(), failure.code().message());
  }
  std::sort(found.begin(), found.end());
  for (const fs::path& path : found) add_if_text(path, files);
}

void add_pattern(const std::string& pattern, TextFiles& files) {
  glob_t matches{};
  const int status = ::glob(pattern.c_str(), 0, nullptr, &matches);
  const std::vector<std::string> paths(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  ::globfree(&matches);
  if (status != 0 || paths.empty()) throw Error("{}: no file matches this pattern", pattern);
  for (const std::string& path : paths)
    if (fs::is_directory(path))
      add_folder(path, files);
    else
      add_if_text(path, files);
}

}  // namespace

bool is_jsonl(const std::string& path) {
  const std::string suffix = text_suffix(path);
  return suffix == ".jsonl" || suffix == ".ndjson";
}

TextFiles find_text_files(const std::vector<std::string>& inputs) {
  TextFiles files;
  for (const std::string& written : inputs) {
    const std::string input = expand_home(written);
    if (fs::is_directory(input))
      add_folder(input, files);
    else if (fs::is_regular_file(input))
      files.paths.push_back(input);
    else if (fs::exists(input))
      throw Error("{}: is neither a file nor a folder", input);
    else if (input.find_first_of("*?[") != std::string::npos)
      add_pattern(input, files);
    else
      throw Error("{}: there is no such file or folder", input);
  }
  if (files.paths.empty())
    throw Error(
        "{}: no text file was found ({} other files); wanted are .txt, .jsonl or .ndjson, each "
        "also with "
        ".gz, .dz or .zst",
        join(inputs, ", "), files.n_skipped);
  std::set<fs::path> seen;
  for (const std::string& path : files.paths)
    if (!seen.insert(fs::canonical(path)).second)
      throw Error("{}: is named twice by the inputs, so its text would count twice", path);
  return files;
}

}  // namespace ceiling
