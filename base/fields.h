// The one declaration of a configuration struct: parser, checker, "did you mean", dump, help and docs all walk it.
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
#include <limits>
#include <optional>
#include <string>
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
struct OneOf {
  std::vector<std::string> choices;
  OneOf(std::initializer_list<std::string> list) : choices(list) {}
  explicit OneOf(std::vector<std::string> list) : choices(std::move(list)) {}
};

// One key: what it is, and how to set and print the member behind it.
struct Field {
  std::string name, type, constraint, doc;
  std::function<void(const ConfigNode& value, const std::string& key)> set;  // Error: where, key, value, what is allowed
  std::function<ConfigNode()> get;
  std::vector<Field> children;  // of a section
};

class Fields {
 public:
  void operator()(const char* name, int64_t& member, AtLeast range, const char* doc);
  void operator()(const char* name, int64_t& member, Between range, const char* doc);
  void operator()(const char* name, double& member, AtLeast range, const char* doc);
  void operator()(const char* name, double& member, MoreThan range, const char* doc);
  void operator()(const char* name, double& member, Between range, const char* doc);
  void operator()(const char* name, bool& member, const char* doc);
  void operator()(const char* name, std::string& member, const char* doc);  // any text
  void operator()(const char* name, std::string& member, OneOf choices, const char* doc);
  void operator()(const char* name, std::vector<std::string>& member, const char* doc);
  void operator()(const char* name, std::vector<int64_t>& member, AtLeast range, const char* doc);
  // Unset is written as the word: f("micro_batch", micro_batch, "auto", AtLeast{1}, "...").
  void operator()(const char* name, std::optional<int64_t>& member, const char* unset_word, AtLeast range, const char* doc);
  void operator()(const char* name, std::optional<double>& member, const char* unset_word, AtLeast range, const char* doc);

  // A nested section: a struct with fields().
  template <class Section>
  void section(const char* name, Section& member, const char* doc) {
    Fields inner;
    member.fields(inner);
    add_section(name, doc, std::move(inner.all_));
  }
  // A list of structs with fields().
  template <class Item>
  void list(const char* name, std::vector<Item>& member, const char* doc) {
    Item prototype;
    Fields inner;
    prototype.fields(inner);
    add_list(
        name, doc, std::move(inner.all_), [&member] { member.clear(); },
        [&member](const std::function<void(std::vector<Field>&)>& fill) {
          Fields f;
          member.emplace_back();
          member.back().fields(f);
          fill(f.all_);
        },
        [&member](const std::function<void(std::vector<Field>&)>& read) {
          for (Item& item : member) {
            Fields f;
            item.fields(f);
            read(f.all_);
          }
        });
  }

  std::vector<Field>& all() { return all_; }

 private:
  using ItemVisitor = std::function<void(const std::function<void(std::vector<Field>&)>&)>;
  void add_section(const char* name, const char* doc, std::vector<Field> children);
  void add_list(const char* name, const char* doc, std::vector<Field> children, std::function<void()> clear,
                ItemVisitor append, ItemVisitor each);
  std::vector<Field> all_;
};

// Sets every member that `node` (a map, or null for all defaults) names. Error on an unknown key ("did you mean"), a wrong
// type, a value out of range; `key` is the dotted prefix for messages ("train").
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
