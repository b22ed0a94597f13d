// Texts that Debian packages, by name.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_reader.h"

namespace ceiling {

bool is_named_source(const std::string& name);
std::unique_ptr<TextSource> named_source(const std::string& name);

// What `bible -l 100000` prints -> chapters: heading, blank line, the verses as prose without their
// numbers.
std::vector<std::string> bible_chapters(std::string_view printed);

// A dictd text of GCIDE -> words: all entries under one headword, without source marks and
// cross-reference braces.
std::vector<std::string> dictionary_words(std::string_view dictionary);

}  // namespace ceiling
