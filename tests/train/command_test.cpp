// What the commands print, and where.
#include "train/command.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "tests/support/command.h"
#include "tests/support/dataset.h"
#include "tests/support/temp_dir.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

const char* kLlama = "llama {d_model: 32, n_layers: 2, n_heads: 2, d_ff: 48}";

TEST(CommandLineTest, HelpListsTheCommandsInTheOrderOfUse) {
  const std::string help = ceiling_command({"--help"}).out;
  std::vector<size_t> places;
  for (const char* name : {"prepare", "train", "generate", "eval", "export", "import", "data",
                           "checkpoint", "config", "bench"}) {
    places.push_back(help.find("\n  " + std::string(name) + " "));
    EXPECT_NE(places.back(), std::string::npos) << name;
  }
  EXPECT_TRUE(std::is_sorted(places.begin(), places.end())) << help;
}

class CommandTest : public ::testing::Test {
 protected:
  CommandTest() { write_byte_dataset(data_, made_up_documents(60, 1), made_up_documents(6, 2)); }
  TempDir dir_;
  std::string data_ = dir_ / "data", run_ = dir_ / "run";
};

TEST_F(CommandTest, GeneratePrintsThePromptItsContinuationAndALineEnd) {
  train(tiny_run(kLlama, data_, run_, 1));
  const Outcome outcome =
      ceiling_command({"generate", run_, "--prompt", "Grüße, wo", "--max-tokens", "12"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.rfind("Grüße, wo", 0), 0u) << outcome.out;
  EXPECT_GT(outcome.out.size(), std::string("Grüße, wo\n").size());
  EXPECT_EQ(outcome.out.back(), '\n');
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_NE(outcome.err.find("new tokens at"), std::string::npos) << outcome.err;
}

// Text and statistics into one pipe: the order in which they were written is that of the reader.
TEST_F(CommandTest, GenerateWritesTheTextBeforeTheStatistics) {
  train(tiny_run(kLlama, data_, run_, 1));
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const std::array<int, 2> saved = {::dup(STDOUT_FILENO), ::dup(STDERR_FILENO)};
  std::fflush(stdout);
  ::dup2(pipe[1], STDOUT_FILENO), ::dup2(pipe[1], STDERR_FILENO);
  std::vector<std::string> arguments = {
      "ceiling", "generate", run_, "--prompt", "stone", "--max-tokens", "9", "--temperature", "0"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  const int code = run_command_line(static_cast<int>(argv.size()), argv.data());
  std::fflush(stdout);
  ::dup2(saved[0], STDOUT_FILENO), ::dup2(saved[1], STDERR_FILENO);
  for (const int file : {pipe[1], saved[0], saved[1]}) ::close(file);
  std::string written(1 << 16, '\0');
  const ssize_t n = ::read(pipe[0], written.data(), written.size());
  ::close(pipe[0]);
  ASSERT_GT(n, 0);
  written.resize(static_cast<size_t>(n));
  ASSERT_EQ(code, 0) << written;
  const size_t statistics = written.find(" prompt tokens in ");
  ASSERT_NE(statistics, std::string::npos) << written;
  const size_t line = written.rfind('\n', statistics) + 1;
  EXPECT_EQ(written.rfind("stone", 0), 0u) << written;
  EXPECT_GE(line, std::string("stone\n").size()) << written;
  EXPECT_EQ(written.find('\n', statistics), written.size() - 1) << written;
}

TEST_F(CommandTest, BenchLoaderMeasuresTheReading) {
  const Outcome outcome = ceiling_command(
      {"bench", "loader", data_, "--context", "32", "--batch", "4", "--steps", "50", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto result = nlohmann::json::parse(outcome.out);
  const double tokens_per_s = result.at("tokens_per_s"), step_ms = result.at("step_ms");
  EXPECT_NEAR(tokens_per_s * step_ms / 1e3, 4 * 32, 1e-6);
  EXPECT_EQ(ceiling_command({"bench", "loader", dir_ / "nothing"}).code, 1);
}

// What a training writes to stderr.
std::string stderr_of(RunConfig config) {
  ::testing::internal::CaptureStderr();
  train(std::move(config));
  return ::testing::internal::GetCapturedStderr();
}

TEST_F(CommandTest, TheProgressLineIsWrittenAsLogProgressSays) {
  const auto written = [&](const std::string& progress) {
    return stderr_of(tiny_run(kLlama, data_, dir_ / progress, 2, {"log.progress=" + progress}));
  };
  EXPECT_NE(written("on").find("\r\033[Kstep 2/2 | loss "), std::string::npos);
  EXPECT_EQ(written("auto").find("\r\033[K"), std::string::npos);  // stderr is a file here
  EXPECT_EQ(written("off").find("\r\033[K"), std::string::npos);
}

TEST_F(CommandTest, OnATerminalTheProgressLineIsShownUnlessItIsOff) {
  for (const std::string progress : {"auto", "off"}) {
    int terminal = -1, ours = -1;
    ASSERT_EQ(::openpty(&ours, &terminal, nullptr, nullptr, nullptr), 0);
    const int saved = ::dup(STDERR_FILENO);
    ::dup2(terminal, STDERR_FILENO);
    train(tiny_run(kLlama, data_, dir_ / progress, 2, {"log.progress=" + progress}));
    ::dup2(saved, STDERR_FILENO);
    ::close(saved);
    std::string written(4096, '\0');
    ::fcntl(ours, F_SETFL, O_NONBLOCK);
    const ssize_t n = ::read(ours, written.data(), written.size());
    written.resize(n < 0 ? 0 : static_cast<size_t>(n));
    ::close(terminal), ::close(ours);
    EXPECT_EQ(written.find("step 2/2 | loss ") != std::string::npos, progress == "auto") << written;
  }
}

}  // namespace
}  // namespace ceiling
