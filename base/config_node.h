// A configuration as read: a tree of scalars, lists and maps that remembers where each value stood.
// The YAML reader is strict: what yaml-cpp does in silence (first of two equal keys, `<<` as a key,
// later documents dropped, text after a
// `#`) works as YAML says or is an error here.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace ceiling {

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;  // of a scalar, as written
  bool quoted = false;
  bool anchored = false;                                    // written with a YAML anchor, `&name`
  std::vector<ConfigNode> items;                            // of a list
  std::vector<std::pair<std::string, ConfigNode>> entries;  // of a map, in the order written
  std::string where;  // "configs/quickstart.yaml:7" (the line of its key) or "command line"

  const ConfigNode* find(const std::string& key) const;
  const ConfigNode* find_path(const std::string& dotted_key) const;
  static ConfigNode scalar(std::string text);
  static ConfigNode list(std::vector<ConfigNode> items);
};

// Reads one YAML document. `base: other.yaml` (or a list, relative to this file) at the root is
// read first and overlaid. Aliases and merge keys (`<<: *name`) work. Error with file and line on
// syntax, tabs, tags, duplicate keys, several documents, a root that is no map, a base that is
// missing or includes itself.
ConfigNode load_config_file(const std::string& path);

// The same for text; `base:` is not allowed. `name` stands for the file in messages.
ConfigNode parse_config_text(const std::string& text, const std::string& name);

// One value written on the command line. Text that begins with [ { " or ' is YAML: "[a, b]",
// "{every: 10}"; any other is taken as it stands, with its '#', ':' and ',' ("runs/new #1"). Empty,
// "~" and "null" are null, as in a file.
ConfigNode parse_config_value(const std::string& text, const std::string& where);

// Applies "section.key=value" from the command line.
void apply_override(ConfigNode& root, const std::string& assignment);

// Overlays `value` at root.a.b.c for a dotted key, making maps on the way.
void set_by_path(ConfigNode& root, const std::string& dotted_key, ConfigNode value);

// Overlays `over` onto `base`: maps merge key by key, everything else is replaced. A map that names
// another `architecture` replaces the whole map below it: keys of one architecture mean nothing to
// another.
ConfigNode overlay(ConfigNode base, const ConfigNode& over);

// YAML text that parse_config_text reads back to the same tree. Short maps and lists in flow style.
std::string to_yaml(const ConfigNode& node);

inline const std::string kCommandLine = "command line";

}  // namespace ceiling
