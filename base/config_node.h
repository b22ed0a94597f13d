// A configuration as read: a tree of scalars, lists and maps that remembers where each value stood. The YAML reader is
// strict: what yaml-cpp does in silence (first of two equal keys, `<<` as a key, later documents dropped) is an error here.
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
  std::vector<ConfigNode> items;                             // of a list
  std::vector<std::pair<std::string, ConfigNode>> entries;  // of a map, in the order written
  std::string where;  // "configs/quickstart.yaml:7" or "command line"

  const ConfigNode* find(const std::string& key) const;
  static ConfigNode scalar(std::string text);
  static ConfigNode list(std::vector<ConfigNode> items);
};

// Reads one YAML document. `base: other.yaml` (or a list, relative to this file) at the root is read first and overlaid.
// Error with file and line on syntax, tabs, duplicate keys, several documents, a root that is no map.
ConfigNode load_config_file(const std::string& path);

// One value written on the command line, as YAML flow text: "3e-4", "[a, b]", "{every: 10}".
ConfigNode parse_config_value(const std::string& text, const std::string& where);

// Sets root.a.b.c = value for a dotted key, making maps on the way.
void set_by_path(ConfigNode& root, const std::string& dotted_key, ConfigNode value);

// Overlays `over` onto `base`: maps merge key by key, everything else is replaced.
ConfigNode overlay(ConfigNode base, const ConfigNode& over);

// YAML text that load_config_file reads back to the same tree. Short maps and lists in flow style.
std::string to_yaml(const ConfigNode& node);

}  // namespace ceiling
