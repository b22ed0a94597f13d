// What a user is told: the exact text of an Error.
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <source_location>
#include <string>

#include "base/error.h"

namespace ceiling {

inline void expect_error(const std::function<void()>& run, const std::string& message,
                         std::source_location where = std::source_location::current()) {
  const int line = static_cast<int>(where.line());
  try {
    run();
  } catch (const Error& error) {
    if (error.what() != message)
      ADD_FAILURE_AT(where.file_name(), line)
          << "says: " << error.what() << "\ninstead of: " << message;
    return;
  }
  ADD_FAILURE_AT(where.file_name(), line) << "no Error; it should say: " << message;
}

}  // namespace ceiling
