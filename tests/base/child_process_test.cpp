#include "base/child_process.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/stop.h"

namespace ceiling {
namespace {

std::string error_of(const std::function<std::string()>& work) {
  try {
    run_in_child("counting", work);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChildProcess, ResultComesBackWhateverItsBytesAndSize) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{5'000'000}}) {
    std::string expected(size, '\0');
    for (size_t i = 0; i < size; ++i) expected[i] = static_cast<char>(i * 37);
    EXPECT_EQ(run_in_child("counting", [&] { return expected; }), expected);
  }
}

TEST(ChildProcess, ChangesOfTheChildStayThere) {
  int count = 0;
  run_in_child("counting", [&] { return std::to_string(++count); });
  EXPECT_EQ(count, 0);
}

TEST(ChildProcess, ErrorComesBackWithItsMessage) {
  EXPECT_EQ(error_of([]() -> std::string { throw Error("book.txt: is too short"); }),
            "book.txt: is too short");
}

TEST(ChildProcess, DeathIsAnErrorWithTheLastWords) {
  EXPECT_EQ(error_of([]() -> std::string {
              std::fprintf(stderr, "a line\ntrainer.cc(7) [n > 0]\n");
              std::abort();
            }),
            "counting: the process ended by signal 6: trainer.cc(7) [n > 0]");
  EXPECT_EQ(error_of([]() -> std::string { ::_exit(255); }),
            "counting: the process ended by exit code 255");
}

TEST(ChildProcess, ARequestToStopEndsTheChild) {
  stop::install_handlers();
  EXPECT_THROW(run_in_child("counting",
                            []() -> std::string {
                              ::kill(::getppid(), SIGUSR1);
                              for (;;) ::pause();
                            }),
               Interrupted);
  stop::reset();
}

}  // namespace
}  // namespace ceiling
