// Reads a Hugging Face config.json: typed values, and the options an architecture insists on.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>

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
    if (!fits<Value>(config_.at(key)))
      throw Error("config.json: {} has an unexpected value {}", key, config_.at(key).dump());
    return config_.at(key).get<Value>();
  }

 private:
  // nlohmann would convert between numbers and booleans. Whole numbers are sizes.
  template <class Value>
  static bool fits(const nlohmann::json& value) {
    constexpr int64_t kMostAbsurd = int64_t{1} << 24;
    if constexpr (std::is_same_v<Value, bool>) return value.is_boolean();
    if constexpr (std::is_same_v<Value, double>) return value.is_number();
    if constexpr (std::is_same_v<Value, int64_t>)
      return value.is_number_integer() && value >= 1 && value <= kMostAbsurd;
    return value.is_string();
  }
  const nlohmann::json& config_;
};

}  // namespace ceiling
