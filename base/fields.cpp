#include "base/fields.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace ceiling {

namespace {

using Kind = ConfigNode::Kind;

std::string place(const ConfigNode& node, const std::string& key) {
  if (node.where.empty()) return key;
  return key.empty() ? node.where : fmt::format("{}: {}", node.where, key);
}

const std::string& scalar_of(const ConfigNode& node, const std::string& key, const char* wanted) {
  if (node.kind == Kind::kNull)
    throw Error("{}: has no value; must be {}, or leave the key out", place(node, key), wanted);
  if (node.kind != Kind::kScalar)
    throw Error("{}: is {}, must be {}", place(node, key),
                node.kind == Kind::kList ? "a list" : "a map", wanted);
  return node.text;
}

int64_t read_int(const ConfigNode& node, const std::string& key) {
  const std::string& text = scalar_of(node, key, "an integer");
  if (const auto value = parse_int(text)) return *value;
  const auto number = parse_double(text);
  if (number && std::abs(*number) > 9e15)
    throw Error("{}: {} is too large for an integer", place(node, key), text);
  throw Error(
      "{}: '{}' is not an integer; write decimal digits without leading zeros, such as 20 or 2e4",
      place(node, key), text);
}

double read_double(const ConfigNode& node, const std::string& key) {
  const std::string& text = scalar_of(node, key, "a number");
  if (const auto value = parse_double(text)) return *value;
  throw Error("{}: '{}' is not a finite number; write it as 0.003 or 3e-3", place(node, key), text);
}

bool read_bool(const ConfigNode& node, const std::string& key) {
  const std::string& text = scalar_of(node, key, "true or false");
  if (text == "true" || text == "false") return text == "true";
  throw Error("{}: '{}' is neither true nor false", place(node, key), text);
}

// Text that other YAML readers would take for a boolean or a number is written in quotes.
ConfigNode text_node(const std::string& text) {
  static const char* kBooleans[] = {"true", "false", "yes", "no", "on", "off", "y", "n"};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  ConfigNode node = ConfigNode::scalar(text);
  node.quoted = parse_double(text) ||
                std::find(std::begin(kBooleans), std::end(kBooleans), lower) != std::end(kBooleans);
  return node;
}

std::string number_text(int64_t value) { return std::to_string(value); }
// "1.0e-08": without the point, YAML 1.1 readers (PyYAML) take the number for text.
std::string number_text(double value) {
  std::string text = format_double(value);
  if (const size_t e = text.find('e'); e < text.find('.') && e != std::string::npos)
    text.insert(e, ".0");
  return text;
}

// A range: whether it holds a value, and its words.
bool holds(AtLeast range, double value) { return value >= range.low; }
bool holds(MoreThan range, double value) { return value > range.low; }
bool holds(Between range, double value) { return value >= range.low && value <= range.high; }
bool holds(FromBelow range, double value) { return value >= range.low && value < range.high; }
std::string bound(double value) { return fmt::format("{:.12g}", value); }
std::string words(AtLeast range) { return fmt::format("at least {}", bound(range.low)); }
std::string words(MoreThan range) { return fmt::format("more than {}", bound(range.low)); }
std::string words(Between range) {
  return fmt::format("between {} and {}", bound(range.low), bound(range.high));
}
std::string words(FromBelow range) {
  return fmt::format("at least {} and below {}", bound(range.low), bound(range.high));
}

template <class Number>
Number read_number(const ConfigNode& node, const std::string& key) {
  if constexpr (std::is_same_v<Number, int64_t>)
    return read_int(node, key);
  else
    return read_double(node, key);
}

template <class Number, class Range>
Number read_in_range(const ConfigNode& node, const std::string& key, Range range) {
  const Number value = read_number<Number>(node, key);
  if (!holds(range, static_cast<double>(value)))
    throw Error("{}: {} is out of range, must be {}", place(node, key), number_text(value),
                words(range));
  return value;
}

template <class Number>
constexpr const char* type_name() {
  return std::is_same_v<Number, int64_t> ? "integer" : "number";
}

Field make_field(const char* name, std::string type, std::string constraint, const char* doc) {
  Field field;
  field.name = name;
  field.type = std::move(type);
  field.constraint = std::move(constraint);
  field.doc = doc;
  return field;
}

template <class Number, class Range>
Field number_field(const char* name, Number& member, Range range, const char* doc) {
  Field field = make_field(name, type_name<Number>(), words(range), doc);
  field.set = [&member, range](const ConfigNode& node, const std::string& key) {
    member = read_in_range<Number>(node, key, range);
  };
  field.get = [&member] { return ConfigNode::scalar(number_text(member)); };
  return field;
}

// `read` turns a node into a T; `print` the reverse.
template <class T, class Read, class Print>
Field optional_field(Field field, std::optional<T>& member, const std::string& unset_word,
                     Read read, Print print) {
  field.constraint += fmt::format("{}or {}", field.constraint.empty() ? "" : ", ", unset_word);
  field.set = [&member, unset_word, read](const ConfigNode& node, const std::string& key) {
    const bool unset =
        node.kind == Kind::kNull || (node.kind == Kind::kScalar && node.text == unset_word);
    try {
      member = unset ? std::nullopt : std::optional<T>(read(node, key));
    } catch (const Error& error) {
      throw Error("{}, or '{}'", error.what(), unset_word);
    }
  };
  field.get = [&member, unset_word, print] {
    return ConfigNode::scalar(member ? print(*member) : unset_word);
  };
  return field;
}

template <class Number>
Field optional_number(const char* name, std::optional<Number>& member, const char* unset_word,
                      AtLeast range, const char* doc) {
  return optional_field(
      make_field(name, type_name<Number>(), words(range), doc), member, unset_word,
      [range](const ConfigNode& node, const std::string& key) {
        return read_in_range<Number>(node, key, range);
      },
      [](Number value) { return number_text(value); });
}

// Reads each item of a list with `read(item, "key[0]")`.
template <class T, class Read>
std::vector<T> read_list(const ConfigNode& node, const std::string& key, Read read) {
  if (node.kind != Kind::kList)
    throw Error("{}: must be a list, as in [a, b]; [] is empty", place(node, key));
  std::vector<T> values;
  for (size_t i = 0; i < node.items.size(); ++i)
    values.push_back(read(node.items[i], fmt::format("{}[{}]", key, i)));
  return values;
}

std::string normal_path(const ConfigNode& node, const std::string& key) {
  // A name of 255 bytes is the limit of the usual file systems; what is being written gets a suffix
  // for a while.
  constexpr size_t kMaxName = 230, kMaxPath = 3800;
  const std::string& text = scalar_of(node, key, "a path");
  if (text.empty()) return text;
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      throw Error("{}: a path with a control character (0x{:02X})", place(node, key),
                  static_cast<unsigned char>(c));
  std::string path = fs::path(expand_home(text)).lexically_normal().string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  for (const std::string& name : split(path, '/'))
    if (name.size() > kMaxName)
      throw Error("{}: the name '{}...' has {} bytes, at most {} are allowed", place(node, key),
                  name.substr(0, 40), name.size(), kMaxName);
  if (path.size() > kMaxPath)
    throw Error("{}: the path has {} bytes, at most {} are allowed", place(node, key), path.size(),
                kMaxPath);
  return path;
}

template <class Number, class Range>
Field number_list_field(const char* type, const char* name, std::vector<Number>& member,
                        Range range, const char* doc) {
  Field field = make_field(name, type, "each " + words(range), doc);
  field.set = [&member, range](const ConfigNode& node, const std::string& key) {
    member = read_list<Number>(node, key, [range](const ConfigNode& item, const std::string& at) {
      return read_in_range<Number>(item, at, range);
    });
  };
  field.get = [&member] {
    std::vector<ConfigNode> items;
    for (const Number value : member) items.push_back(ConfigNode::scalar(number_text(value)));
    return ConfigNode::list(std::move(items));
  };
  return field;
}

}  // namespace

std::optional<Duration> parse_duration(const std::string& text) {
  double seconds = 0;
  size_t begin = 0;
  double largest = 1e9;  // units must fall: 1h30m, not 30m1h
  while (begin < text.size()) {
    const size_t end = text.find_first_of("dhms", begin);
    if (end == std::string::npos) return {};
    const double unit = text[end] == 'd'   ? 86400
                        : text[end] == 'h' ? 3600
                        : text[end] == 'm' ? 60
                                           : 1;
    const auto number = parse_double(text.substr(begin, end - begin));
    if (!number || *number < 0 || unit >= largest) return {};
    seconds += *number * unit;
    largest = unit;
    begin = end + 1;
  }
  if (text.empty() || seconds <= 0) return {};
  return Duration{seconds};
}

std::string duration_text(Duration duration) {
  for (const auto& [unit, size] : {std::pair{'h', 3600.0}, std::pair{'m', 60.0}})
    if (std::fmod(duration.seconds, size) == 0)
      return format_double(duration.seconds / size) + unit;
  return format_double(duration.seconds) + 's';
}

Field& Field::free_to_change() {
  may_change = true;
  for (Field& child : children) child.free_to_change();
  return *this;
}

Field& Fields::add(Field field) { return all_.emplace_back(std::move(field)); }

Field& Fields::operator()(const char* name, int64_t& member, AtLeast range, const char* doc) {
  return add(number_field(name, member, range, doc));
}
Field& Fields::operator()(const char* name, int64_t& member, Between range, const char* doc) {
  return add(number_field(name, member, range, doc));
}
Field& Fields::operator()(const char* name, double& member, AtLeast range, const char* doc) {
  return add(number_field(name, member, range, doc));
}
Field& Fields::operator()(const char* name, double& member, MoreThan range, const char* doc) {
  return add(number_field(name, member, range, doc));
}
Field& Fields::operator()(const char* name, double& member, Between range, const char* doc) {
  return add(number_field(name, member, range, doc));
}
Field& Fields::operator()(const char* name, double& member, FromBelow range, const char* doc) {
  return add(number_field(name, member, range, doc));
}

Field& Fields::operator()(const char* name, bool& member, const char* doc) {
  Field field = make_field(name, "boolean", "true or false", doc);
  field.set = [&member](const ConfigNode& node, const std::string& key) {
    member = read_bool(node, key);
  };
  field.get = [&member] { return ConfigNode::scalar(member ? "true" : "false"); };
  return add(std::move(field));
}

Field& Fields::operator()(const char* name, std::string& member, const char* doc) {
  Field field = make_field(name, "text", "", doc);
  field.set = [&member](const ConfigNode& node, const std::string& key) {
    member = scalar_of(node, key, "text");
  };
  field.get = [&member] { return text_node(member); };
  return add(std::move(field));
}

Field& Fields::operator()(const char* name, std::string& member, OneOf allowed, const char* doc) {
  Field field = make_field(name, "text", "one of " + join(allowed.choices, ", "), doc);
  field.set = [&member, choices = allowed.choices](const ConfigNode& node, const std::string& key) {
    const std::string& text = scalar_of(node, key, ("one of " + join(choices, ", ")).c_str());
    for (const std::string& choice : choices)
      if (text == choice) {
        member = text;
        return;
      }
    const std::string guess = did_you_mean(text, choices);
    throw Error("{}: '{}' is not one of {}{}", place(node, key), text, join(choices, ", "), guess);
  };
  field.get = [&member] { return text_node(member); };
  return add(std::move(field));
}

Field& Fields::operator()(const char* name, std::string& member, IsPath, const char* doc) {
  Field field = make_field(name, "path", "", doc);
  field.set = [&member](const ConfigNode& node, const std::string& key) {
    member = normal_path(node, key);
  };
  field.get = [&member] { return text_node(member); };
  return add(std::move(field));
}

Field& Fields::operator()(const char* name, std::vector<std::string>& member, const char* doc) {
  Field field = make_field(name, "list of text", "", doc);
  field.set = [&member](const ConfigNode& node, const std::string& key) {
    member = read_list<std::string>(node, key, [](const ConfigNode& item, const std::string& at) {
      return scalar_of(item, at, "text");
    });
  };
  field.get = [&member] {
    std::vector<ConfigNode> items;
    for (const std::string& text : member) items.push_back(text_node(text));
    return ConfigNode::list(std::move(items));
  };
  return add(std::move(field));
}

Field& Fields::operator()(const char* name, std::vector<int64_t>& member, AtLeast range,
                          const char* doc) {
  return add(number_list_field("list of integers", name, member, range, doc));
}
Field& Fields::operator()(const char* name, std::vector<double>& member, MoreThan range,
                          const char* doc) {
  return add(number_list_field("list of numbers", name, member, range, doc));
}

Field& Fields::operator()(const char* name, std::optional<int64_t>& member, const char* unset_word,
                          AtLeast range, const char* doc) {
  return add(optional_number(name, member, unset_word, range, doc));
}
Field& Fields::operator()(const char* name, std::optional<double>& member, const char* unset_word,
                          AtLeast range, const char* doc) {
  return add(optional_number(name, member, unset_word, range, doc));
}

Field& Fields::operator()(const char* name, std::optional<Duration>& member, const char* unset_word,
                          const char* doc) {
  return add(optional_field(
      make_field(name, "time span", "such as 55m, 2h, 90s or 1h30m", doc), member, unset_word,
      [](const ConfigNode& node, const std::string& key) {
        const std::string& text = scalar_of(node, key, "a time span such as 55m");
        const auto duration = parse_duration(text);
        if (!duration)
          throw Error("{}: '{}' is not a time span; write it as 55m, 2h, 90s or 1h30m",
                      place(node, key), text);
        return *duration;
      },
      duration_text));
}

Field& Fields::add_section(const char* name, const char* doc, std::vector<Field> children) {
  Field field = make_field(name, "section", "", doc);
  field.children = std::move(children);
  return add(std::move(field));
}

Field& Fields::add_list(const char* name, const char* doc, std::vector<Field> children,
                        std::function<void()> clear, ItemVisitor append, ItemVisitor each) {
  std::vector<std::string> names;
  for (const Field& child : children) names.push_back(child.name);
  const std::string item_text = "{" + join(names, ", ") + "}";
  Field field = make_field(name, "list of " + item_text, "", doc);
  field.children = std::move(children);
  field.is_list = true;
  field.set = [clear, append, item_text](const ConfigNode& node, const std::string& key) {
    if (node.kind != Kind::kList)
      throw Error("{}: must be a list, each item with the keys {}", place(node, key), item_text);
    clear();
    for (size_t i = 0; i < node.items.size(); ++i)
      append([&](std::vector<Field>& fields) {
        parse_fields(fields, node.items[i], fmt::format("{}[{}]", key, i));
      });
  };
  field.get = [each] {
    std::vector<ConfigNode> items;
    each([&](std::vector<Field>& fields) { items.push_back(dump_fields(fields)); });
    return ConfigNode::list(std::move(items));
  };
  return add(std::move(field));
}

namespace {

std::string dotted(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : fmt::format("{}.{}", prefix, name);
}

// Last part and full name of every key below `fields`.
void collect_names(const std::vector<Field>& fields, const std::string& prefix,
                   std::vector<std::string>& last_parts, std::vector<std::string>& full_names) {
  for (const Field& field : fields) {
    const std::string full = dotted(prefix, field.name);
    full_names.push_back(full);
    last_parts.push_back(field.name);
    if (field.is_section()) collect_names(field.children, full, last_parts, full_names);
  }
}

// "; did you mean 'x'?": a key of that name in another section, the nearest one here, or the
// nearest elsewhere.
std::string suggestion(const std::vector<Field>& root, const std::string& root_key,
                       const std::vector<Field>& fields, const std::string& prefix,
                       const std::string& name, bool dotted_form) {
  std::vector<std::string> here, last_parts, full_names;
  for (const Field& field : fields) here.push_back(field.name);
  collect_names(root, root_key, last_parts, full_names);
  const auto full_name = [&](const std::string& last_part) {
    const auto at = std::find(last_parts.begin(), last_parts.end(), last_part);
    return at == last_parts.end() ? "" : full_names[static_cast<size_t>(at - last_parts.begin())];
  };
  std::string guess = full_name(name);
  if (guess.empty())
    if (const auto near = nearest(name, here)) guess = dotted_form ? dotted(prefix, *near) : *near;
  if (guess.empty())
    if (const auto far = nearest(name, last_parts)) guess = full_name(*far);
  if (!guess.empty()) return fmt::format("; did you mean '{}'?", guess);
  return fmt::format("; known keys: {}", join(here, ", "));
}

[[noreturn]] void refuse_unknown(const std::vector<Field>& root, const std::string& root_key,
                                 const std::vector<Field>& fields, const std::string& prefix,
                                 std::string name, const ConfigNode& value) {
  if (value.anchored)
    throw Error(
        "{}: unknown key '{}'; to share values put them into a file of their own and name it with "
        "'base:'",
        place(value, prefix), name);
  if (value.where != kCommandLine)
    throw Error("{}: unknown key '{}'{}", place(value, prefix), name,
                suggestion(root, root_key, fields, prefix, name, /*dotted_form=*/false));
  // On the command line the whole dotted key was written in one place.
  std::string written = dotted(prefix, name);
  for (const ConfigNode* below = &value; below->entries.size() == 1;
       below = &below->entries[0].second) {
    name = below->entries[0].first;
    written = dotted(written, name);
  }
  throw Error("{}: unknown key '{}'{}", value.where, written,
              suggestion(root, root_key, fields, prefix, name, /*dotted_form=*/true));
}

void parse_level(const std::vector<Field>& root, const std::string& root_key,
                 std::vector<Field>& fields, const ConfigNode& node, const std::string& prefix) {
  if (node.kind == Kind::kNull) return;
  if (node.kind != Kind::kMap) {
    const std::string got = node.kind == Kind::kList ? "a list" : fmt::format("'{}'", node.text);
    throw Error(
        "{}: {} is not a section; write its keys indented below it, or as {}: {{key: value}}",
        place(node, prefix), got, prefix.empty() ? "section" : prefix);
  }
  for (const auto& [name, value] : node.entries) {
    Field* known = nullptr;
    for (Field& field : fields)
      if (field.name == name) known = &field;
    if (!known) refuse_unknown(root, root_key, fields, prefix, name, value);
    const std::string key = dotted(prefix, name);
    if (known->is_section())
      parse_level(root, root_key, known->children, value, key);
    else
      known->set(value, key);
  }
}

}  // namespace

void parse_fields(std::vector<Field>& fields, const ConfigNode& node, const std::string& key) {
  parse_level(fields, key, fields, node, key);
}

ConfigNode dump_fields(const std::vector<Field>& fields) {
  ConfigNode map;
  map.kind = Kind::kMap;
  for (const Field& field : fields)
    map.entries.emplace_back(field.name,
                             field.is_section() ? dump_fields(field.children) : field.get());
  return map;
}

}  // namespace ceiling
