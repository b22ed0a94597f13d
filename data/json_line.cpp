#include "data/json_line.h"

#include <spdlog/fmt/fmt.h>

#include <vector>

#include "base/text.h"

namespace ceiling {

namespace {

constexpr size_t kMaxDepth = 512;

void append_utf8(uint32_t code, std::string& out) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | code >> 6);
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

class Scanner {
 public:
  Scanner(std::string_view line, int64_t* lone_surrogates)
      : line_(line), lone_surrogates_(lone_surrogates) {}

  void object_field(std::string_view key, std::string& text) {
    bool found = false;
    std::vector<std::string> names;
    std::string name;
    skip_space();
    if (!take('{')) fail("is no JSON object");
    skip_space();
    for (bool more = !take('}'); more;) {
      skip_space();
      const size_t name_at = at_;
      string(&name);
      skip_space();
      if (!take(':')) fail("':' is missing after a key");
      skip_space();
      if (name != key) {
        names.push_back(name);
        skip_value();
      } else {
        if (found) throw JsonLineError(fmt::format("the key '{}' stands twice", key), name_at);
        found = true;
        if (peek() != '"') fail(fmt::format("the value of '{}' is no string", key));
        string(&text);
      }
      skip_space();
      more = take(',');
      if (!more && !take('}')) fail("',' or '}' is missing");
    }
    skip_space();
    if (at_ != line_.size()) fail("something follows the JSON object");
    if (!found)
      throw JsonLineError(
          fmt::format("has no key '{}'{}; name the key of the text with --text-key", key,
                      names.empty() ? "" : ", only '" + join(names, "', '") + "'"),
          0);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw JsonLineError(what, at_); }
  int peek() const { return at_ < line_.size() ? static_cast<uint8_t>(line_[at_]) : -1; }
  bool take(char wanted) {
    if (peek() != static_cast<uint8_t>(wanted)) return false;
    ++at_;
    return true;
  }
  void skip_space() {
    while (at_ < line_.size() &&
           (line_[at_] == ' ' || line_[at_] == '\t' || line_[at_] == '\r' || line_[at_] == '\n'))
      ++at_;
  }

  // A string; its text goes to `out` if there is one.
  void string(std::string* out) {
    if (!take('"')) fail("a string is missing");
    if (out) out->clear();
    for (;;) {
      const size_t start = at_;
      while (at_ < line_.size() && line_[at_] != '"' && line_[at_] != '\\' &&
             static_cast<uint8_t>(line_[at_]) >= 0x20)
        ++at_;
      if (out) out->append(line_.substr(start, at_ - start));
      if (take('"')) return;
      if (at_ == line_.size()) fail("the line ends inside a string");
      if (line_[at_] != '\\') fail("a control character stands unescaped in a string");
      escape(out);
    }
  }

  void escape(std::string* out) {
    const size_t start = at_++;
    const int kind = peek();
    ++at_;
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const size_t index = kind < 0 ? kNames.npos : kNames.find(static_cast<char>(kind));
    if (index != kNames.npos) {
      if (out) out->push_back(kValues[index]);
      return;
    }
    if (kind != 'u') throw JsonLineError("an unknown escape stands in a string", start);
    uint32_t code = hex4();
    if (code >= 0xd800 && code < 0xdc00 && line_.substr(at_, 2) == "\\u") {
      const size_t before = at_;
      at_ += 2;
      const uint32_t low = hex4();
      if (low >= 0xdc00 && low < 0xe000)
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      else
        at_ = before;
    }
    if (!out) return;
    if (code >= 0xd800 && code < 0xe000) {
      if (!lone_surrogates_)
        throw JsonLineError(
            fmt::format("\\u{:04x} is half of a surrogate pair and no character by itself; "
                        "--invalid-utf8 replace writes U+FFFD in its place",
                        code),
            start);
      ++*lone_surrogates_;
      code = 0xfffd;
    }
    append_utf8(code, *out);
  }

  uint32_t hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail("four hexadecimal digits are missing after \\u");
      code = code << 4 | static_cast<uint32_t>(digit);
    }
    return code;
  }

  // Any value, checked and forgotten. Nested ones without recursion.
  void skip_value() {
    std::string open;  // the brackets that wait for their ends
    do {
      skip_space();
      if (!open.empty() && open.back() == '{') {
        string(nullptr);
        skip_space();
        if (!take(':')) fail("':' is missing after a key");
        skip_space();
      }
      if (peek() == '{' || peek() == '[') {
        open.push_back(line_[at_++]);
        if (open.size() > kMaxDepth) fail("values are nested too deep");
        skip_space();
        if (!take(open.back() == '{' ? '}' : ']')) continue;
        open.pop_back();
      } else {
        skip_scalar();
      }
      for (skip_space(); !open.empty() && !take(','); skip_space()) {
        if (!take(open.back() == '{' ? '}' : ']')) fail("',' or a closing bracket is missing");
        open.pop_back();
      }
    } while (!open.empty());
  }

  void skip_scalar() {
    if (peek() == '"') return string(nullptr);
    for (const std::string_view word : {"true", "false", "null"})
      if (line_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return;
      }
    skip_number();
  }

  void skip_number() {
    const auto digits = [&] {
      const size_t start = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == start) fail("a value is missing or malformed");
    };
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
  }

  std::string_view line_;
  int64_t* lone_surrogates_;
  size_t at_ = 0;
};

}  // namespace

void json_line_text(std::string_view line, std::string_view key, std::string& text,
                    int64_t* lone_surrogates) {
  Scanner(line, lone_surrogates).object_field(key, text);
}

}  // namespace ceiling
