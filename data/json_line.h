// One field of one line of JSONL, found without building the rest: what a text reader needs of
// JSON, at the speed of the disk.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace ceiling {

// What is wrong with a line, and at which byte of it (from 0).
struct JsonLineError : std::runtime_error {
  JsonLineError(const std::string& what, size_t at) : std::runtime_error(what), at(at) {}
  size_t at;
};

// Checks that `line` (UTF-8) is one JSON object and puts the string under its key `key` into
// `text`. A `\u` escape that is half of a surrogate pair is no character: with `lone_surrogates` it
// becomes U+FFFD and is counted there, without it is an error.
void json_line_text(std::string_view line, std::string_view key, std::string& text,
                    int64_t* lone_surrogates);

}  // namespace ceiling
