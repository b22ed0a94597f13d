// Small things to do with text: numbers read strictly, numbers written readably, "did you mean".
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ceiling {

// Decimal integers, "20", "-3", "1_000_000", and exact forms such as "2e4". Not "010", "0x10",
// "1.5", "yes".
std::optional<int64_t> parse_int(std::string_view text);

// Finite decimal numbers. Not "nan", "inf", "1e-999" (underflow), "1,5", "true".
std::optional<double> parse_double(std::string_view text);

// The shortest text that reads back as the same number: 0.003, 1e-05, 20.
std::string format_double(double value);

std::string format_bytes(double bytes);       // 12.3 MiB
std::string format_count(double count);       // 162.2 M
std::string format_thousands(int64_t count);  // 318,204
std::string utc_now();                        // 2026-01-31T09:30:00Z
std::string format_duration(double seconds);  // 2 h 05 min, 41 s, 0.4 s

// The candidate nearest to `word` by edit distance, if near enough to be a misspelling of it.
std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates);

// "; did you mean 'x'?" or nothing.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& parts, std::string_view separator);

// Index of the first byte that does not belong to well-formed UTF-8 (no surrogates, no overlong
// forms), if any.
std::optional<size_t> invalid_utf8(std::string_view text);

// UTF-8 in which every malformed sequence is one U+FFFD; `replaced` counts them.
std::string repair_utf8(std::string_view text, int64_t* replaced);

}  // namespace ceiling
