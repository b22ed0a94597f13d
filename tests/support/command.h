// A command of `ceiling` run within the test, and what it printed.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "train/command.h"

namespace ceiling {

struct Outcome {
  int code;
  std::string out, err;
};

// The arguments without the program's name.
inline Outcome ceiling_command(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "ceiling");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = run_command_line(static_cast<int>(argv.size()), argv.data());
  const std::string out = ::testing::internal::GetCapturedStdout();
  return {code, out, ::testing::internal::GetCapturedStderr()};
}

}  // namespace ceiling
