#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include "tests/support/source_dir.h"
#include "train/logging.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  ceiling::start_logging();
  if (!std::filesystem::exists(ceiling::source_dir() + "/tests/golden/llama")) {
    std::printf("*GoldenTest* are skipped: a bundle has no golden fixtures, a clone has\n");
    std::string filter = ::testing::GTEST_FLAG(filter);
    filter += filter.find('-') == std::string::npos ? "-*GoldenTest*" : ":*GoldenTest*";
    ::testing::GTEST_FLAG(filter) = filter;
  }
  return RUN_ALL_TESTS();
}
