#include "data/named_source.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/text.h"
#include "data/byte_stream.h"

namespace ceiling {

namespace {

constexpr char kDictionaryFile[] = "/usr/share/dictd/gcide.dict.dz";

bool succeeds(const std::string& shell_command) {
  return std::system((shell_command + " >/dev/null 2>&1 </dev/null").c_str()) == 0;
}

std::string output_of(const std::string& shell_command) {
  std::FILE* pipe = ::popen(shell_command.c_str(), "r");
  if (!pipe) throw Error("{}: cannot be started", shell_command);
  std::string output;
  std::array<char, 65536> buffer;
  while (const size_t size = std::fread(buffer.data(), 1, buffer.size(), pipe))
    output.append(buffer.data(), size);
  if (::pclose(pipe) != 0) throw Error("{}: failed", shell_command);
  return output;
}

std::string bytes_of(const std::string& path) {
  const auto stream = open_byte_stream(path);
  std::string all, block(size_t{1} << 16, '\0');
  while (const size_t size = stream->read(block.data(), block.size())) all.append(block, 0, size);
  return all;
}

bool has_bible() { return succeeds("command -v bible"); }
std::vector<std::string> read_bible() {
  return bible_chapters(output_of("bible -l 100000 gen1:1-rev22:21"));
}
bool has_dictionary() { return fs::exists(kDictionaryFile); }
std::vector<std::string> read_dictionary() { return dictionary_words(bytes_of(kDictionaryFile)); }

struct Package {
  const char* name;  // of the source and of the Debian package
  const char* missing;
  bool (*is_there)();
  std::vector<std::string> (*read)();
};
constexpr std::array<Package, 2> kPackages = {{
    {"bible-kjv", "the program `bible`", has_bible, read_bible},
    {"dict-gcide", kDictionaryFile, has_dictionary, read_dictionary},
}};

const Package* find_package(const std::string& name) {
  for (const Package& package : kPackages)
    if (name == package.name) return &package;
  return nullptr;
}

void install(const Package& package) {
  const bool root = ::geteuid() == 0;
  const std::string apt =
      std::string(root ? "" : "sudo -n ") + "env DEBIAN_FRONTEND=noninteractive apt-get -q ";
  const std::string command = apt + "install -y --no-install-recommends " + package.name;
  if (succeeds("command -v apt-get") && (root || succeeds("sudo -n true"))) {
    spdlog::info("data.source {}: {} is missing; installing the package: {}", package.name,
                 package.missing, command);
    if (!succeeds(command)) succeeds(apt + "update && " + command);
  }
  if (package.is_there()) return;
  throw Error(
      "data.source {}: {} is missing and could not be installed; install the package {} (Debian, "
      "Ubuntu: sudo apt-get "
      "install {}), or set data.source to any text or JSONL file, for example data.source=book.txt "
      "'data.document_separator=\\n\\n\\n'",
      package.name, package.missing, package.name, package.name);
}

class DocumentList final : public TextSource {
 public:
  DocumentList(const std::string& name, std::vector<std::string> documents)
      : name_(name), documents_(std::move(documents)) {
    for (const std::string& document : documents_)
      size_bytes_ += static_cast<int64_t>(document.size());
  }
  std::unique_ptr<DocumentStream> open() const override { return std::make_unique<Stream>(*this); }
  int64_t size_bytes() const override { return size_bytes_; }
  std::string description() const override {
    return fmt::format("{} ({} documents, {})", name_,
                       format_thousands(static_cast<int64_t>(documents_.size())),
                       format_bytes(static_cast<double>(size_bytes_)));
  }

 private:
  class Stream final : public DocumentStream {
   public:
    explicit Stream(const DocumentList& list) : list_(list) {}
    bool next(std::string& text) override {
      if (next_ == list_.documents_.size()) return false;
      text = list_.documents_[next_++];
      bytes_done_ += static_cast<int64_t>(text.size());
      hash_.update(text);
      return true;
    }
    int64_t bytes_done() const override { return bytes_done_; }
    int64_t n_replaced() const override { return 0; }
    nlohmann::json provenance() override {
      return {{"name", list_.name_}, {"size_bytes", list_.size_bytes_}, {"sha256", hash_.hex()}};
    }

   private:
    const DocumentList& list_;
    size_t next_ = 0;
    int64_t bytes_done_ = 0;
    Sha256 hash_;
  };

  std::string name_;
  std::vector<std::string> documents_;
  int64_t size_bytes_ = 0;
};

// The next line, without its LF; false at the end.
bool next_line(std::string_view& text, std::string_view& line) {
  if (text.empty()) return false;
  const size_t end = std::min(text.find('\n'), text.size());
  line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return true;
}

std::string_view trimmed(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t") - first + 1);
}

// "[1913 Webster]", "[WordNet 1.5 +PJC]": who wrote a definition.
bool is_source_mark(std::string_view line) {
  const std::string_view text = trimmed(line);
  if (!text.starts_with('[') || !text.ends_with(']')) return false;
  for (const std::string_view author : {"Webster", "WordNet", "PJC", "Century Dict", "RP", "AS"})
    if (text.find(author) != std::string_view::npos) return true;
  return false;
}

// "Coagulate \Co*ag"u*late\, v. t." -> "Coagulate"
std::string_view headword(std::string_view line) {
  return trimmed(line.substr(0, line.find('\\')));
}

}  // namespace

std::vector<std::string> bible_chapters(std::string_view printed) {
  std::vector<std::string> chapters;
  std::string_view line;
  while (next_line(printed, line)) {
    const std::string_view text = trimmed(line);
    if (text.empty()) continue;
    if (line[0] != ' ') {
      if (!chapters.empty()) chapters.back() += '\n';
      chapters.push_back(std::string(text) + "\n");
      continue;
    }
    if (chapters.empty()) throw Error("bible: a verse stands before the first chapter: {}", text);
    const size_t verse = text.find_first_not_of("0123456789 ");
    if (verse == std::string_view::npos) continue;
    chapters.back() += chapters.back().ends_with('\n') ? '\n' : ' ';
    chapters.back() += text.substr(verse);
  }
  if (!chapters.empty()) chapters.back() += '\n';
  return chapters;
}

std::vector<std::string> dictionary_words(std::string_view dictionary) {
  std::vector<std::string> words;
  std::string_view line, current;
  bool after_blank = true;
  while (next_line(dictionary, line)) {
    const bool is_blank = trimmed(line).empty();
    const bool starts_entry =
        after_blank && !is_blank && line[0] != ' ' && line.find(" \\") != std::string_view::npos;
    after_blank = is_blank || (after_blank && is_source_mark(line));
    if (starts_entry && headword(line) != current) {
      current = headword(line);
      words.emplace_back();
    }
    if (words.empty() || is_source_mark(line)) continue;  // the preface
    std::string& word = words.back();
    if (is_blank) {
      if (!word.ends_with("\n\n")) word += '\n';
      continue;
    }
    for (const char byte : line.substr(0, line.find_last_not_of(' ') + 1))
      if (byte != '{' && byte != '}') word += byte;
    word += '\n';
  }
  for (std::string& word : words) {
    while (word.ends_with("\n\n")) word.pop_back();
    int64_t replaced = 0;
    if (invalid_utf8(word)) word = repair_utf8(word, &replaced);
  }
  return words;
}

bool is_named_source(const std::string& name) { return find_package(name) != nullptr; }

std::unique_ptr<TextSource> named_source(const std::string& name) {
  const Package* package = find_package(name);
  if (!package->is_there()) install(*package);
  return std::make_unique<DocumentList>(name, package->read());
}

}  // namespace ceiling
