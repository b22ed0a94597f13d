// Reads a Hugging Face config.json: typed values, and the options an architecture insists on.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"

namespace ceiling {

class HfConfigReader {
 public:
  explicit HfConfigReader(const nlohmann::json& config) : config_(config) {}

  template <class Value>
  bool is(const char* key, const Value& value) const {
    return config_.contains(key) && config_.at(key) == value;
  }
  // An absent key counts as agreeing.
  template <class Value>
  void require(const char* key, const Value& value) const {
    if (config_.contains(key) && config_.at(key) != value)
      throw Error("config.json: {} is {}, only {} is supported", key, config_.at(key).dump(),
                  nlohmann::json(value).dump());
  }
  template <class Value>
  Value get(const char* key, std::optional<Value> absent = {}) const {
    if (!config_.contains(key) || config_.at(key).is_null()) {
      if (absent) return *absent;
      throw Error("config.json: the key {} is missing", key);
    }
    try {
      return config_.at(key).get<Value>();
    } catch (const nlohmann::json::exception&) {
      throw Error("config.json: {} has an unexpected value {}", key, config_.at(key).dump());
    }
  }

 private:
  const nlohmann::json& config_;
};

}  // namespace ceiling
