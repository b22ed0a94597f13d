// Which files an input names: a file, a pattern or a folder.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ceiling {

struct TextFiles {
  std::vector<std::string> paths;  // in the order of the inputs, sorted inside folders and patterns
  int64_t n_skipped = 0;  // hidden ones and those with another suffix, in folders and patterns
};

// A file is taken whatever its name is; a folder (with all below it) and a quoted pattern
// ('corpus/*.zst') give the files named *.txt, *.jsonl or *.ndjson, each also with .gz, .dz or .zst
// behind. Error if an input names nothing, a file is named twice, or no text file is among them.
TextFiles find_text_files(const std::vector<std::string>& inputs);

// By the name, less its compression suffix.
bool is_jsonl(const std::string& path);

}  // namespace ceiling
