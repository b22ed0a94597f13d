#include "train/config_reference.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "train/run_config.h"

namespace ceiling {

namespace {

struct KeyDoc {
  std::string key, type, default_text, doc;
  bool may_change = false;
};
struct SectionDoc {
  std::string name, architecture, doc;  // architecture: of the part of `model` that it declares
  std::vector<KeyDoc> keys;
};

void collect(const std::vector<Field>& fields, const std::string& prefix,
             std::vector<KeyDoc>& keys) {
  for (const Field& field : fields) {
    if (field.is_section()) {
      collect(field.children, prefix + field.name + ".", keys);
      continue;
    }
    KeyDoc key;
    key.key = prefix + field.name;
    key.type = field.constraint.empty() ? field.type : field.type + ", " + field.constraint;
    if (field.constraint.rfind("one of ", 0) == 0 || field.type == "boolean")
      key.type = field.constraint;
    key.default_text = to_yaml(field.get());
    key.default_text.pop_back();  // the line end
    key.doc = field.doc;
    key.may_change = field.may_change;
    keys.push_back(std::move(key));
    if (field.is_list) collect(field.children, prefix + field.name + "[].", keys);
  }
}

std::vector<SectionDoc> all_sections() {
  std::vector<SectionDoc> sections;
  RunConfig defaults;
  Fields root;
  defaults.fields(root);
  for (const Field& field : root.all()) {
    SectionDoc section{field.name, "", field.doc, {}};
    collect(field.children, field.name + ".", section.keys);
    sections.push_back(std::move(section));
    if (field.name != "model") continue;
    for (const Architecture& architecture : architectures()) {
      const std::unique_ptr<ModelConfig> config = architecture.make_config();
      Fields keys;
      config->fields(keys);
      SectionDoc part{"model", architecture.name, architecture.summary, {}};
      collect(keys.all(), "model.", part.keys);
      sections.push_back(std::move(part));
    }
  }
  return sections;
}

// Words of `text` in lines of at most 100 columns.
std::string wrapped(const std::string& text, size_t indent) {
  constexpr size_t kColumns = 100;
  const std::string margin(indent, ' ');
  std::string out, line = margin;
  for (const std::string& word : split(text, ' ')) {
    if (line.size() > indent && line.size() + word.size() > kColumns) {
      out += line + '\n';
      line = margin;
    }
    if (line.size() > indent) line += ' ';
    line += word;
  }
  return out + line + '\n';
}

std::string default_words(const KeyDoc& key) {
  return key.default_text == "\"\"" ? "not set" : "default " + key.default_text;
}

std::string key_text(const KeyDoc& key) {
  return fmt::format("  {}  ({}; {})\n", key.key, key.type, default_words(key)) +
         wrapped(key.doc, 6);
}

std::string heading(const SectionDoc& section) {
  if (section.architecture.empty()) return fmt::format("{}: {}\n", section.name, section.doc);
  return fmt::format("{} of architecture {}: {}\n", section.name, section.architecture,
                     section.doc);
}

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

}  // namespace

std::string explain_config(const std::string& topic) {
  const std::vector<SectionDoc> sections = all_sections();
  std::string text;
  std::vector<std::string> names;
  for (const SectionDoc& section : sections) {
    names.push_back(section.architecture.empty() ? section.name : section.architecture);
    const bool whole = topic.empty() || topic == section.name || topic == section.architecture;
    std::string keys;
    for (const KeyDoc& key : section.keys) {
      names.push_back(key.key);
      names.push_back(last_part(key.key));
      const bool below = key.key.rfind(topic + ".", 0) == 0 || key.key.rfind(topic + "[]", 0) == 0;
      if (whole || below || topic == key.key || topic == last_part(key.key) ||
          key.key.find("." + topic + ".") != std::string::npos)
        keys += key_text(key);
    }
    if (!keys.empty()) text += (text.empty() ? "" : "\n") + heading(section) + keys;
  }
  if (!text.empty()) return text;
  const std::string hint = did_you_mean(topic, names);
  throw Error("'{}' is no configuration key, section or architecture{}", topic,
              hint.empty() ? "; `ceiling config explain` lists all" : hint);
}

namespace {

constexpr const char* kIntroduction = R"(# Configuration

This page is printed by `ceiling config explain --markdown`; a test compares the two.
`ceiling config explain train.lr` shows one key, `ceiling config show FILE` all values of a file.

- A file is one YAML document of sections. Keys left out have the defaults below. An unknown key, a wrong type or an
  impossible combination stops the program with file, line and key.
- `base: other.yaml` (or a list of files, later ones on top) builds on another file, relative to the one that says so.
  Sections merge key by key; a list replaces a list. A `model:` section that names another `architecture` replaces the
  whole section, since the keys of one architecture mean nothing to another.
- `ceiling train FILE train.lr=3e-4 eval.prompts='["In the beginning"]'` overrides single keys, with the same checks.
- Integers are decimal (`20`, `1_000_000`, `2e4`); not `010`, `0x10`. Numbers are finite. Booleans are `true` and
  `false`, nothing else. Time spans have units (`55m`, `1h30m`). Text needs no quotes unless YAML says so.
- Paths are relative to the working folder; `~` is the home folder; `a/../b/` is `b`.
- A run that is started again in its folder continues. Keys marked "free" may have changed by then; all others decide
  the result, and a change is refused.
)";

// Text inside a table cell.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) (out += c == '|' ? "\\" : "") += c;
  return out;
}

}  // namespace

std::string config_reference_markdown() {
  std::string text = kIntroduction;
  for (const SectionDoc& section : all_sections()) {
    if (section.architecture.empty())
      text += fmt::format("\n## {}: {}\n", section.name, section.doc);
    else
      text +=
          fmt::format("\n### model, architecture `{}`: {}\n", section.architecture, section.doc);
    text += "\n| key | value | default | at resume | meaning |\n|---|---|---|---|---|\n";
    for (const KeyDoc& key : section.keys) {
      const std::string value =
          key.default_text == "\"\"" ? "" : fmt::format("`{}`", cell(key.default_text));
      text += fmt::format("| `{}` | {} | {} | {} | {} |\n", key.key, cell(key.type), value,
                          key.may_change ? "free" : "", cell(key.doc));
    }
  }
  return text;
}

}  // namespace ceiling
