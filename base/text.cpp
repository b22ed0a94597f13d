#include "base/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <numeric>

#include "base/error.h"

namespace ceiling {

namespace {
bool is_digit(char c) { return c >= '0' && c <= '9'; }  // isdigit is undefined for bytes over 127
bool is_sign(char c) { return c == '-' || c == '+'; }
}  // namespace

std::optional<int64_t> parse_int(std::string_view text) {
  std::string digits;
  const size_t first = !text.empty() && is_sign(text[0]) ? 1 : 0;
  if (text.size() > first && is_sign(text[first])) return {};  // +-3
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between_digits =
        i > first && i + 1 < text.size() && is_digit(text[i - 1]) && is_digit(text[i + 1]);
    if (text[i] == '_' && between_digits) continue;
    digits += text[i];
  }
  if (first == 1 && digits[0] == '+') digits.erase(0, 1);
  const size_t sign = !digits.empty() && digits[0] == '-' ? 1 : 0;
  if (digits.size() > sign + 1 && digits[sign] == '0' && is_digit(digits[sign + 1])) return {};
  int64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, failure] = std::from_chars(digits.data(), end, value);
  if (failure == std::errc() && stop == end && digits.size() > sign) return value;
  // 2e4 and 2.0e4 name an integer exactly; 1.5 does not.
  if (digits.find_first_of("eE") == std::string::npos) return {};
  const std::optional<double> exact = parse_double(digits);
  if (!exact || *exact != std::floor(*exact) || std::abs(*exact) >= 9007199254740992.0) return {};
  return static_cast<int64_t>(*exact);
}

std::optional<double> parse_double(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && !is_sign(text[1])) text.remove_prefix(1);
  if (text.empty() || !(is_digit(text[0]) || text[0] == '-' || text[0] == '.')) return {};
  if (text.find_first_of("nNiIxX") != std::string_view::npos) return {};
  double value = 0;
  const auto [stop, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || stop != text.data() + text.size() || !std::isfinite(value))
    return {};
  const bool has_digit = text.find_first_of("123456789") != std::string_view::npos &&
                         text.find_first_of("123456789") < text.find_first_of("eE");
  if (value == 0 && has_digit) return {};  // underflow
  return value;
}

std::string format_double(double value) {
  char buffer[64];
  const auto [end, failure] = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, end};
}

std::string format_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (std::abs(bytes) >= (unit ? 1023.95 : 1023.5) && unit < 4) bytes /= 1024, ++unit;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string format_count(double count) {
  const char* units[] = {"", " k", " M", " G", " T", " P", " E"};
  int unit = 0;
  while (std::abs(count) >= (unit ? 999.95 : 999.5) && unit < 6) count /= 1000, ++unit;
  return unit == 0 ? fmt::format("{:.0f}", count) : fmt::format("{:.1f}{}", count, units[unit]);
}

std::string format_thousands(int64_t count) {
  std::string digits = std::to_string(count);
  for (int at = static_cast<int>(digits.size()) - 3; at > (count < 0 ? 1 : 0); at -= 3)
    digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::min(seconds, 1e15) + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{} d {:02} h", whole / 86400, whole / 3600 % 24);
}

std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // Optimal string alignment: insert, delete, replace, swap neighbours.
    std::vector<size_t> before, above(candidate.size() + 1), row(candidate.size() + 1);
    std::iota(above.begin(), above.end(), 0);
    for (size_t i = 0; i < word.size(); ++i) {
      row[0] = i + 1;
      for (size_t j = 0; j < candidate.size(); ++j) {
        row[j + 1] = std::min({above[j + 1] + 1, row[j] + 1, above[j] + (word[i] != candidate[j])});
        const bool swapped =
            i > 0 && j > 0 && word[i] == candidate[j - 1] && word[i - 1] == candidate[j];
        if (swapped) row[j + 1] = std::min(row[j + 1], before[j - 1] + 1);
      }
      before = above;
      above = row;
    }
    if (above.back() >= std::max(word.size(), candidate.size())) continue;  // nothing in common
    if (above.back() < best_distance) best = candidate, best_distance = above.back();
  }
  return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const auto best = nearest(word, candidates);
  return best ? fmt::format("; did you mean '{}'?", *best) : "";
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(separator, begin)) != std::string_view::npos; begin = end + 1)
    parts.emplace_back(text.substr(begin, end - begin));
  parts.emplace_back(text.substr(begin));
  return parts;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

namespace {
// Length of the well-formed UTF-8 sequence at text[at], or 0 (Unicode 15, table 3-7).
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || at + length > text.size()) return 0;
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(at + 1) < low || byte(at + 1) > high) return 0;
  for (size_t i = at + 2; i < at + length; ++i)
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  return length;
}
}  // namespace

std::optional<size_t> invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    if (length == 0) return at;
    at += length;
  }
  return {};
}

std::string repair_utf8(std::string_view text, int64_t* replaced) {
  std::string good;
  good.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    if (const size_t length = utf8_length(text, at)) {
      good.append(text.substr(at, length));
      at += length;
      continue;
    }
    good += "\xEF\xBF\xBD";
    ++*replaced;
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  }
  return good;
}

}  // namespace ceiling
