#include "train/compare/jobs.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

TEST(LastWords, AreTheErrorWhereThereIsOneAndElseTheLastLineThatSaysSomething) {
  const TempDir temp;
  const std::string log = temp / "log";
  const auto of = [&](const std::string& text) {
    write_file_atomic(log, text);
    return last_words(log);
  };
  EXPECT_EQ(of("step 1\nceiling: error: a thing\nto do: that\n"), "a thing\nto do: that");
  EXPECT_EQ(of("step 1\nstep 2\n\n"), "step 2");
  EXPECT_EQ(
      of("--context: Value 4 not in range [16 - 32]\nRun with --help for more information.\n"),
      "--context: Value 4 not in range [16 - 32]");
  EXPECT_EQ(of(""), "it said nothing");
  EXPECT_EQ(last_words(temp / "none"), "it said nothing");
}

}  // namespace
}  // namespace ceiling
