// The one declaration of a configuration struct: parser, checker, "did you mean", dump, help and
// docs all walk it.
//
//   struct TrainConfig {
//     int64_t steps = 0;
//     double lr = 3e-4;
//     std::string schedule = "cosine";
//     void fields(Fields& f) {
//       f("steps", steps, AtLeast{0}, "optimizer steps");
//       f("lr", lr, Between{0, 10}, "peak learning rate");
//       f("schedule", schedule, OneOf{"cosine", "linear"}, "shape of the learning rate");
//     }
//   };
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/config_node.h"

namespace ceiling {

struct AtLeast {
  double low;
};
struct MoreThan {
  double low;
};
struct Between {
  double low, high;  // both allowed
};
struct FromBelow {
  double low, high;  // low is allowed, high is not
};
struct OneOf {
  std::vector<std::string> choices;
  OneOf(std::initializer_list<std::string> list) : choices(list) {}
  explicit OneOf(std::vector<std::string> list) : choices(std::move(list)) {}
};
// A file or folder: "~" expanded, "a/./b/../c/" written as "a/c". Relative names are relative to
// the working folder.
struct IsPath {};

// A time span, written with units: "55m", "2h", "90s", "1d12h".
struct Duration {
  double seconds = 0;
};
std::optional<Duration> parse_duration(const std::string& text);
std::string duration_text(Duration duration);  // parse_duration reads it back

// One key: what it is, and how to set and print the member behind it.
struct Field {
  std::string name, type, constraint, doc;
  std::function<void(const ConfigNode& value, const std::string& key)>
      set;  // Error: where, key, value, what is allowed
  std::function<ConfigNode()> get;
  std::vector<Field> children;  // of a section, or of one item of a list of structs
  bool is_list = false;         // a list of structs
  bool may_change = false;  // a run may be resumed with another value: no result depends on it, or
                            // what does is checked elsewhere

  Field& free_to_change();  // marks this key, or all keys of this section
  bool is_section() const { return !children.empty() && !is_list; }
};

class Fields {
 public:
  Field& operator()(const char* name, int64_t& member, AtLeast range, const char* doc);
  Field& operator()(const char* name, int64_t& member, Between range, const char* doc);
  Field& operator()(const char* name, double& member, AtLeast range, const char* doc);
  Field& operator()(const char* name, double& member, MoreThan range, const char* doc);
  Field& operator()(const char* name, double& member, Between range, const char* doc);
  Field& operator()(const char* name, double& member, FromBelow range, const char* doc);
  Field& operator()(const char* name, bool& member, const char* doc);
  Field& operator()(const char* name, std::string& member, const char* doc);  // any text
  Field& operator()(const char* name, std::string& member, OneOf choices, const char* doc);
  Field& operator()(const char* name, std::string& member, IsPath kind, const char* doc);
  Field& operator()(const char* name, std::vector<std::string>& member, const char* doc);
  Field& operator()(const char* name, std::vector<int64_t>& member, AtLeast range, const char* doc);
  Field& operator()(const char* name, std::vector<double>& member, MoreThan range, const char* doc);
  // Unset is written as the word: f("micro_batch", micro_batch, "auto", AtLeast{1}, "...").
  Field& operator()(const char* name, std::optional<int64_t>& member, const char* unset_word,
                    AtLeast range, const char* doc);
  Field& operator()(const char* name, std::optional<double>& member, const char* unset_word,
                    AtLeast range, const char* doc);
  Field& operator()(const char* name, std::optional<Duration>& member, const char* unset_word,
                    const char* doc);

  // A nested section: a struct with fields().
  template <class Section>
  Field& section(const char* name, Section& member, const char* doc) {
    Fields inner;
    member.fields(inner);
    return add_section(name, doc, std::move(inner.all_));
  }
  // A list of structs with fields().
  template <class Item>
  Field& list(const char* name, std::vector<Item>& member, const char* doc) {
    const auto prototype =
        std::make_shared<Item>();  // lives as long as the children, whose get() reads it
    Fields inner;
    prototype->fields(inner);
    return add_list(
        name, doc, std::move(inner.all_), [&member, prototype] { member.clear(); },
        [&member](const FieldsVisitor& fill) {
          Fields f;
          member.emplace_back();
          member.back().fields(f);
          fill(f.all_);
        },
        [&member](const FieldsVisitor& read) {
          for (Item& item : member) {
            Fields f;
            item.fields(f);
            read(f.all_);
          }
        });
  }

  std::vector<Field>& all() { return all_; }

 private:
  using FieldsVisitor = std::function<void(std::vector<Field>&)>;
  using ItemVisitor = std::function<void(const FieldsVisitor&)>;
  Field& add(Field field);
  Field& add_section(const char* name, const char* doc, std::vector<Field> children);
  Field& add_list(const char* name, const char* doc, std::vector<Field> children,
                  std::function<void()> clear, ItemVisitor append, ItemVisitor each);
  std::vector<Field> all_;
};

// Sets every member that `node` (a map, or null for all defaults) names. Error on an unknown key
// ("did you mean"), a wrong type, a value out of range; `key` is the dotted prefix for messages
// ("train"), empty at the root.
void parse_fields(std::vector<Field>& fields, const ConfigNode& node, const std::string& key);

// All keys with their present values, as a map in the order declared.
ConfigNode dump_fields(const std::vector<Field>& fields);

template <class Config>
void parse_config(Config& config, const ConfigNode& node, const std::string& key) {
  Fields f;
  config.fields(f);
  parse_fields(f.all(), node, key);
}
template <class Config>
ConfigNode dump_config(Config& config) {
  Fields f;
  config.fields(f);
  return dump_fields(f.all());
}

}  // namespace ceiling
