#include "base/config_node.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace ceiling {

namespace {

constexpr int64_t kMaxFileBytes = 4 << 20;  // a data file given by mistake is refused at once
constexpr int64_t kMaxNodes = 100'000;      // aliases of aliases can stand for billions

const char* kind_name(ConfigNode::Kind kind) {
  switch (kind) {
    case ConfigNode::Kind::kNull:
      return "nothing";
    case ConfigNode::Kind::kScalar:
      return "a single value";
    case ConfigNode::Kind::kList:
      return "a list";
    default:
      return "a map";
  }
}

ConfigNode make_map(std::string where) {
  ConfigNode map;
  map.kind = ConfigNode::Kind::kMap;
  map.where = std::move(where);
  return map;
}

ConfigNode* find_entry(ConfigNode& map, const std::string& key) {
  for (auto& [name, value] : map.entries)
    if (name == key) return &value;
  return nullptr;
}

int64_t count_nodes(const ConfigNode& node) {
  int64_t n = 1;
  for (const ConfigNode& item : node.items) n += count_nodes(item);
  for (const auto& [key, value] : node.entries) n += count_nodes(value);
  return n;
}

// Builds the tree from the parser's events.
class TreeBuilder final : public YAML::EventHandler {
 public:
  // Lines are given as "name:line", or as `name` alone for a value without lines.
  TreeBuilder(const std::string& name, bool with_lines) : name_(name), with_lines_(with_lines) {}

  ConfigNode root;
  bool has_root = false;

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (has_root)
      throw Error(
          "{}: the YAML document ended above this line (by '---' or wrong indentation); a "
          "configuration is "
          "one document",
          where(mark));
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add({}, mark, anchor); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end())
      throw Error("{}: an alias stands inside the value that it names", where(mark));
    n_nodes_ += count_nodes(found->second);
    check_size(mark);
    add(found->second, mark, 0);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    ConfigNode node = ConfigNode::scalar(value);
    node.quoted = tag == "!";
    add(std::move(node), mark, anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    ConfigNode node;
    YAML::Mark mark;
    YAML::anchor_t anchor = 0;
    bool has_key = false;
    std::string key, key_where;
    std::vector<ConfigNode> merged;  // values of `<<`
  };

  std::string where(const YAML::Mark& mark) const {
    return with_lines_ ? fmt::format("{}:{}", name_, mark.line + 1) : name_;
  }
  void check_size(const YAML::Mark& mark) {
    if (++n_nodes_ > kMaxNodes)
      throw Error("{}: more than {} values (counting each use of an alias)", where(mark),
                  kMaxNodes);
  }
  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!")
      throw Error("{}: the tag '{}' is not supported; remove it, every key knows its type",
                  where(mark), tag);
  }
  void open(ConfigNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    check_tag(mark, tag);
    check_size(mark);
    if (expects_key())
      throw Error("{}: a key must be a word, not {}", where(mark), kind_name(kind));
    Open level;
    level.node.kind = kind;
    level.mark = mark;
    level.anchor = anchor;
    stack_.push_back(std::move(level));
  }
  void close() {
    Open level = std::move(stack_.back());
    stack_.pop_back();
    for (const ConfigNode& source : level.merged)
      for (const auto& [key, value] : source.entries)
        if (!level.node.find(key)) level.node.entries.emplace_back(key, value);
    add(std::move(level.node), level.mark, level.anchor);
  }
  bool expects_key() const {
    return !stack_.empty() && stack_.back().node.kind == ConfigNode::Kind::kMap &&
           !stack_.back().has_key;
  }
  void add(ConfigNode node, const YAML::Mark& mark, YAML::anchor_t anchor) {
    check_size(mark);
    if (expects_key()) return add_key(node, mark);
    const bool is_entry = !stack_.empty() && stack_.back().has_key;
    node.where = is_entry ? stack_.back().key_where : where(mark);
    if (anchor != 0) {
      node.anchored = true;
      anchors_[anchor] = node;
    }
    if (stack_.empty()) {
      root = std::move(node);
      has_root = true;
    } else if (!is_entry) {
      stack_.back().node.items.push_back(std::move(node));
    } else {
      add_entry(std::move(node));
    }
  }
  void add_key(const ConfigNode& node, const YAML::Mark& mark) {
    if (node.kind != ConfigNode::Kind::kScalar)
      throw Error("{}: a key must be a word, not {}", where(mark), kind_name(node.kind));
    Open& map = stack_.back();
    map.has_key = true;
    map.key = node.text;
    map.key_where = where(mark);
    if (const ConfigNode* first = map.node.find(map.key))
      throw Error("{}: the key '{}' is given twice, first in {}; keep one", map.key_where, map.key,
                  first->where);
  }
  void add_entry(ConfigNode node) {
    Open& map = stack_.back();
    map.has_key = false;
    if (map.key != "<<") {
      map.node.entries.emplace_back(map.key, std::move(node));
      return;
    }
    if (!map.merged.empty())
      throw Error("{}: '<<' is given twice; write '<<: [*a, *b]'", map.key_where);
    if (node.kind == ConfigNode::Kind::kMap)
      map.merged = {std::move(node)};
    else
      map.merged = std::move(node.items);
    const bool all_maps =
        std::all_of(map.merged.begin(), map.merged.end(),
                    [](const ConfigNode& source) { return source.kind == ConfigNode::Kind::kMap; });
    if (map.merged.empty() || !all_maps)
      throw Error(
          "{}: '<<' merges maps, as in '<<: *name'; to build on another file write 'base: FILE'",
          map.key_where);
  }

  std::string name_;
  bool with_lines_;
  std::vector<Open> stack_;
  std::map<YAML::anchor_t, ConfigNode> anchors_;
  int64_t n_nodes_ = 0;
};

// yaml-cpp's messages, with what usually causes them.
std::string explain_syntax_error(const std::string& message) {
  static const std::pair<const char*, const char*> kCauses[] = {
      {"end of map not found", "wrong indentation, or a line without 'key: '"},
      {"end of sequence not found", "wrong indentation in a list"},
      {"end of map flow not found", "a '{' without its '}', or a missing ','"},
      {"end of sequence flow not found", "a '[' without its ']', or a missing ','"},
      {"illegal map value", "wrong indentation, or a value with ': ' in it that needs quotes"},
      {"illegal document indicator in scalar", "a quote at or above this line is never closed"},
      {"bad file", "lists or maps nested too deeply"},
      {"the referenced anchor is not defined", "no '&name' above for this '*name'"},
      {"unknown token", "a value that begins with this character needs quotes"},
  };
  for (const auto& [start, cause] : kCauses)
    if (message.rfind(start, 0) == 0) return fmt::format("{} ({})", cause, message);
  return message;
}

// YAML 1.2, 5.4: CR LF and CR are line breaks too. A byte order mark is dropped.
std::string normalise_lines(std::string_view text) {
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r')
      out += text[i];
    else if (i + 1 == text.size() || text[i + 1] != '\n')
      out += '\n';
  }
  return out;
}

// What the parser would misread or stop at without a word.
void check_characters(const std::string& text, const std::string& name) {
  if (const auto bad = invalid_utf8(text))
    throw Error("{}:{}: not UTF-8 text (byte {})", name,
                1 + std::count(text.begin(), text.begin() + *bad, '\n'), *bad);
  int64_t line = 1;
  bool in_indentation = true;
  for (const char c : text) {
    if (c == '\t' && in_indentation)
      throw Error("{}:{}: a tab in the indentation; YAML indents with spaces", name, line);
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') || c == 0x7F)
      throw Error("{}:{}: control character 0x{:02X}; is this a text file?", name, line,
                  static_cast<unsigned char>(c));
    in_indentation = c == '\n' || (in_indentation && c == ' ');
    line += c == '\n';
  }
}

// One document, whatever its root; a null root for a document that holds nothing.
ConfigNode parse_document(const std::string& text, const std::string& name, bool with_lines) {
  // The end marker makes yaml-cpp notice a quote that is never closed; without it the rest of the
  // file is taken as text.
  std::istringstream in(text + "\n...\n");
  TreeBuilder builder(name, with_lines);
  try {
    YAML::Parser parser(in);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& problem) {
    // What is missing at the end of the file is reported on its last line with text.
    const auto last = text.begin() + static_cast<std::ptrdiff_t>(text.find_last_not_of(" \n") + 1);
    const int64_t line =
        std::min<int64_t>(problem.mark.line, std::count(text.begin(), last, '\n')) + 1;
    const std::string where = with_lines ? fmt::format("{}:{}", name, line) : name;
    throw Error("{}: not valid YAML: {}", where, explain_syntax_error(problem.msg));
  }
  return std::move(builder.root);
}

ConfigNode load_with_bases(const std::string& path, std::vector<std::string> chain);

void apply_bases(ConfigNode& root, const std::string& path, const std::vector<std::string>& chain) {
  const auto entry = std::find_if(root.entries.begin(), root.entries.end(),
                                  [](const auto& pair) { return pair.first == "base"; });
  if (entry == root.entries.end()) return;
  const ConfigNode base = std::move(entry->second);
  root.entries.erase(entry);
  const std::vector<ConfigNode> files =
      base.kind == ConfigNode::Kind::kList ? base.items : std::vector<ConfigNode>{base};
  ConfigNode below = make_map(root.where);
  for (const ConfigNode& file : files) {
    if (file.kind != ConfigNode::Kind::kScalar || file.text.empty())
      throw Error("{}: base: names a file or a list of files, relative to this one", base.where);
    const fs::path written = expand_home(file.text);
    const std::string target = (fs::path(path).parent_path() / written).lexically_normal().string();
    const std::string links = fmt::format("{} -> {}", join(chain, " -> "), target);
    std::error_code ignored;
    if (!fs::exists(target, ignored))
      throw Error("{}: base: there is no file {} ({})", file.where, target, links);
    const bool seen = std::any_of(chain.begin(), chain.end(), [&](const std::string& earlier) {
      return fs::equivalent(earlier, target, ignored);
    });
    if (seen) throw Error("{}: base: the files include each other: {}", file.where, links);
    below = overlay(std::move(below), load_with_bases(target, chain));
  }
  root = overlay(std::move(below), root);
}

ConfigNode load_with_bases(const std::string& path, std::vector<std::string> chain) {
  std::error_code failure;
  if (!fs::exists(path, failure)) throw Error("{}: there is no such file", path);
  if (fs::is_directory(path, failure))
    throw Error("{}: is a folder; name the YAML file in it", path);
  if (fs::is_regular_file(path, failure) && fs::file_size(path, failure) > kMaxFileBytes)
    throw Error("{}: {} is too large for a configuration (limit {})", path,
                format_bytes(static_cast<double>(fs::file_size(path, failure))),
                format_bytes(kMaxFileBytes));
  ConfigNode root = parse_config_text(read_file(path), path);
  chain.push_back(path);
  apply_bases(root, path, chain);
  return root;
}

}  // namespace

const ConfigNode* ConfigNode::find(const std::string& key) const {
  for (const auto& [name, value] : entries)
    if (name == key) return &value;
  return nullptr;
}

const ConfigNode* ConfigNode::find_path(const std::string& dotted_key) const {
  const ConfigNode* node = this;
  for (const std::string& name : split(dotted_key, '.'))
    if ((node = node->find(name)) == nullptr) break;
  return node;
}

ConfigNode ConfigNode::scalar(std::string text) {
  ConfigNode node;
  node.kind = Kind::kScalar;
  node.text = std::move(text);
  return node;
}

ConfigNode ConfigNode::list(std::vector<ConfigNode> items) {
  ConfigNode node;
  node.kind = Kind::kList;
  node.items = std::move(items);
  return node;
}

ConfigNode load_config_file(const std::string& path) {
  return load_with_bases(expand_home(path), {});
}

ConfigNode parse_config_text(const std::string& raw, const std::string& name) {
  const std::string text = normalise_lines(raw);
  check_characters(text, name);
  ConfigNode root = parse_document(text, name, /*with_lines=*/true);
  if (root.kind == ConfigNode::Kind::kNull)
    throw Error("{}:1: the file holds no settings; configs/quickstart.yaml is an example", name);
  if (root.kind != ConfigNode::Kind::kMap)
    throw Error("{}: the file is {}, not sections such as 'train: {{steps: 20}}'", root.where,
                kind_name(root.kind));
  return root;
}

ConfigNode parse_config_value(const std::string& text, const std::string& where) {
  if (const auto bad = invalid_utf8(text)) throw Error("{}: not UTF-8 text (byte {})", where, *bad);
  ConfigNode node;
  if (text.find_first_of("[{\"'") == 0) {
    // As the value of a key, where yaml-cpp's messages fit better than at the root.
    ConfigNode map = parse_document("value: " + text, where, /*with_lines=*/false);
    if (map.entries.size() != 1) throw Error("{}: '{}' is more than one value", where, text);
    node = std::move(map.entries[0].second);
  } else if (!text.empty() && text != "~" && text != "null" && text != "Null" && text != "NULL") {
    node = ConfigNode::scalar(text);
  }
  node.where = where;
  return node;
}

void apply_override(ConfigNode& root, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  const std::string key = assignment.substr(0, equals);
  const std::vector<std::string> names = split(key, '.');
  if (equals == std::string::npos || std::find(names.begin(), names.end(), "") != names.end())
    throw Error("{}: '{}' is not of the form section.key=value, for example train.lr=3e-4",
                kCommandLine, assignment);
  try {
    set_by_path(root, key, parse_config_value(assignment.substr(equals + 1), kCommandLine));
  } catch (const Error& error) {
    throw Error("{} (in {})", error.what(), assignment);
  }
}

void set_by_path(ConfigNode& root, const std::string& dotted_key, ConfigNode value) {
  const std::string where = value.where;
  ConfigNode* node = &root;
  for (const std::string& name : split(dotted_key, '.')) {
    if (node->kind != ConfigNode::Kind::kMap) *node = make_map(where);
    ConfigNode* next = find_entry(*node, name);
    if (!next) next = &node->entries.emplace_back(name, ConfigNode()).second;
    node = next;
  }
  *node = overlay(std::move(*node), value);
}

ConfigNode overlay(ConfigNode base, const ConfigNode& over) {
  if (base.kind != ConfigNode::Kind::kMap || over.kind != ConfigNode::Kind::kMap) return over;
  const ConfigNode *before = base.find("architecture"), *after = over.find("architecture");
  if (before && after && before->text != after->text) return over;
  base.where = over.where;
  for (const auto& [key, value] : over.entries) {
    if (ConfigNode* below = find_entry(base, key))
      *below = overlay(std::move(*below), value);
    else
      base.entries.emplace_back(key, value);
  }
  return base;
}

namespace {

constexpr size_t kLineWidth = 100;

bool is_plain(const std::string& text) {
  if (text.empty() || text.back() == ':') return false;
  const std::string lower = [&] {
    std::string copy = text;
    std::transform(copy.begin(), copy.end(), copy.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    return copy;
  }();
  if (lower == "null" || lower == "~") return false;
  const auto is_word = [](unsigned char c) { return c < 0x80 && (std::isalnum(c) || c == '_'); };
  const bool negative_number =
      text[0] == '-' && text.size() > 1 && std::isdigit(static_cast<unsigned char>(text[1]));
  if (!is_word(text[0]) && text[0] != '/' && text[0] != '.' && !negative_number) return false;
  if (text.find("...") == 0) return false;
  return std::all_of(text.begin(), text.end(), [&](unsigned char c) {
    return is_word(c) ||
           std::string_view("./-+:").find(static_cast<char>(c)) != std::string_view::npos;
  });
}

std::string scalar_text(const std::string& text, bool quoted = false) {
  if (!quoted && is_plain(text)) return text;
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7F)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out + '"';
}

std::string flow_text(const ConfigNode& node) {
  std::vector<std::string> parts;
  switch (node.kind) {
    case ConfigNode::Kind::kNull:
      return "null";
    case ConfigNode::Kind::kScalar:
      return scalar_text(node.text, node.quoted);
    case ConfigNode::Kind::kList:
      for (const ConfigNode& item : node.items) parts.push_back(flow_text(item));
      return fmt::format("[{}]", join(parts, ", "));
    default:
      for (const auto& [key, value] : node.entries)
        parts.push_back(fmt::format("{}: {}", scalar_text(key), flow_text(value)));
      return fmt::format("{{{}}}", join(parts, ", "));
  }
}

void write_entries(std::string& out, const ConfigNode& map, size_t indent);

// "key: value" or, where that is too long, the value below the key.
void write_value(std::string& out, const ConfigNode& node, size_t indent, size_t column) {
  const std::string flow = flow_text(node);
  const bool is_leaf = node.items.empty() && node.entries.empty();
  if (is_leaf || column + flow.size() < kLineWidth) {
    out += ' ' + flow + '\n';
  } else if (node.kind == ConfigNode::Kind::kMap) {
    out += '\n';
    write_entries(out, node, indent + 2);
  } else {
    out += '\n';
    for (const ConfigNode& item : node.items)
      out += std::string(indent + 2, ' ') + "- " + flow_text(item) + '\n';
  }
}

void write_entries(std::string& out, const ConfigNode& map, size_t indent) {
  for (const auto& [key, value] : map.entries) {
    const std::string head = std::string(indent, ' ') + scalar_text(key) + ':';
    out += head;
    write_value(out, value, indent, head.size());
  }
}

}  // namespace

std::string to_yaml(const ConfigNode& node) {
  std::string out;
  if (node.kind == ConfigNode::Kind::kMap && !node.entries.empty())
    write_entries(out, node, 0);
  else
    out = flow_text(node) + '\n';
  return out;
}

}  // namespace ceiling
