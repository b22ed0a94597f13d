#include "base/stop.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/own_process.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

// A child process with the handlers installed and a pending folder, which works on until it is
// stopped, and what it says.
class Child {
 public:
  // `poll`: it looks for the request to stop, as a command does; otherwise it is stuck. `ignored`:
  // a signal that whoever started it has set to be ignored.
  Child(const std::string& final_path, bool poll, int ignored = 0) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], STDERR_FILENO);
      ::close(ends[0]);
      ::close(ends[1]);
      // However these tests were started.
      for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP})
        std::signal(signal, signal == ignored ? SIG_IGN : SIG_DFL);
      ::_exit(work(final_path, poll));
    }
    ::close(ends[1]);
    said_ = ends[0];
    read_until("ready");
  }
  ~Child() { ::close(said_); }

  void signal(int number) { ::kill(pid_, number); }
  // Reads what the child says until it has said this.
  void read_until(const std::string& text) {
    char c;
    while (output_.find(text) == std::string::npos && ::read(said_, &c, 1) == 1) output_ += c;
    EXPECT_NE(output_.find(text), std::string::npos) << output_;
  }
  // The exit code, once the child and whatever cleans up after it are gone: they hold the pipe.
  int wait() {
    char c;
    while (::read(said_, &c, 1) == 1) output_ += c;
    int status = 0;
    ::waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  const std::string& output() const { return output_; }

 private:
  static int work(const std::string& final_path, bool poll) {
    stop::install_handlers();
    PendingFolder folder(final_path);
    write_file_atomic(folder.path() + "/half", "written");
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, "ready\n", 6);
    try {
      for (;;) {
        ::usleep(1000);
        if (poll) stop::check();
      }
    } catch (const Interrupted& stopped) {
      return 100 + stopped.signal;
    }
  }

  pid_t pid_ = 0;
  int said_ = -1;
  std::string output_;
};

// Signals nearer than 50 ms to each other count as one.
void let_the_first_signal_age() { std::this_thread::sleep_for(std::chrono::milliseconds(60)); }

class StopTest : public ::testing::TestWithParam<int> {};

TEST_P(StopTest, TheFirstSignalIsSeenByTheWorkWhichEndsCleanly) {
  const TempDir temp;
  Child child(temp / "final", /*poll=*/true);
  child.signal(GetParam());
  EXPECT_EQ(child.wait(), 100 + GetParam());
  EXPECT_NE(child.output().find("a second signal exits at once"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(temp.path()));
}

TEST_P(StopTest, TheSecondSignalExitsAtOnceAndLeavesNoPendingFolder) {
  const TempDir temp;
  Child child(temp / "final", /*poll=*/false);
  child.signal(GetParam());
  child.read_until("a second signal exits at once");
  let_the_first_signal_age();
  EXPECT_FALSE(fs::is_empty(temp.path()));
  child.signal(GetParam());
  EXPECT_EQ(child.wait(), 128 + GetParam());
  EXPECT_TRUE(fs::is_empty(temp.path()));
}

INSTANTIATE_TEST_SUITE_P(Signals, StopTest, ::testing::Values(SIGINT, SIGTERM, SIGUSR1, SIGHUP));

TEST(StopOnceTest, SignalsThatArriveTogetherCountAsOne) {
  const TempDir temp;
  Child child(temp / "final", /*poll=*/true);
  child.signal(SIGTERM);
  child.signal(SIGHUP);  // what a closing terminal sends
  const int code = child.wait();
  EXPECT_TRUE(code == 100 + SIGTERM || code == 100 + SIGHUP) << code;
  EXPECT_EQ(child.output().find("exiting at once"), std::string::npos);
}

// While the process ends, another thread goes on beginning folders and giving them up.
TEST(StopOnceTest, TheSecondSignalLeavesNothingThatIsBegunMeanwhile) {
  for (int i = 0; i < 10; ++i) {
    const TempDir temp;
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
      stop::install_handlers();
      // A large process: forking it takes a while.
      std::vector<char> memory(size_t{256} << 20, 'x');
      std::thread([&] {
        for (int64_t n = 0;; ++n) {
          PendingFolder folder(temp / std::to_string(n));
          write_file_atomic(folder.path() + "/half", "written");
        }
      }).detach();
      [[maybe_unused]] const auto written = ::write(ready[1], memory.data(), 1);
      for (;;) ::pause();
    }
    char c;
    ASSERT_EQ(::read(ready[0], &c, 1), 1);
    ::kill(child, SIGTERM);
    let_the_first_signal_age();
    ::kill(child, SIGTERM);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    for (const int end : ready) ::close(end);
    for (int waited = 0; waited < 500 && !fs::is_empty(temp.path()); ++waited) ::usleep(10000);
    EXPECT_TRUE(fs::is_empty(temp.path()))
        << "left: " << fs::directory_iterator(temp.path())->path();
  }
}

TEST(StopOnceTest, AHangupUnderNohupIsIgnored) {
  const TempDir temp;
  Child child(temp / "final", /*poll=*/true, /*ignored=*/SIGHUP);
  child.signal(SIGHUP);
  let_the_first_signal_age();
  child.signal(SIGTERM);
  EXPECT_EQ(child.wait(), 100 + SIGTERM);
  EXPECT_EQ(child.output().find("exiting at once"), std::string::npos);
}

TEST(StopOnceTest, AKilledProcessLeavesAFolderThatTheNextOneRemoves) {
  const TempDir temp;
  Child child(temp / "final", /*poll=*/false);
  child.signal(SIGKILL);
  EXPECT_EQ(child.wait(), -SIGKILL);
  EXPECT_FALSE(fs::is_empty(temp.path()));
  PendingFolder(temp / "final").commit();
  EXPECT_TRUE(fs::exists(temp / "final"));
  EXPECT_EQ(std::distance(fs::directory_iterator(temp.path()), fs::directory_iterator()), 1);
}

TEST(StopOnceTest, AForwardedRequestThatComesBeforeTheHandlersIsKept) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const stop::HoldForwarded hold;
    const pid_t child = ::fork();
    if (child == 0) {
      std::signal(signal, SIG_DFL);  // however these tests were started
      stop::reset();
      stop::forward(::getpid(), signal);
      if (stop::requested() != 0) ::_exit(1);
      stop::install_handlers();
      ::_exit(100 + stop::requested());
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 100 + signal);
  }
}

TEST(StopOnceTest, AProcessOfOursThatIsAskedToStopAsItStartsIsNotEndedByTheRequest) {
  OwnProcess::Options options;
  options.arguments = {"--gtest_list_tests", "--gtest_filter=None"};
  options.out = "/dev/null";
  for (int i = 0; i < 20; ++i) {
    OwnProcess process(options);
    process.ask_to_stop(SIGHUP);  // this program's tests install no handlers: the request is kept
    while (process.running()) ::usleep(1000);
    EXPECT_EQ(process.ended_by(), 0);
    EXPECT_EQ(process.code(), 0);
  }
}

TEST(StopOnceTest, NothingIsRequestedBeforeASignal) {
  EXPECT_EQ(stop::requested(), 0);
  EXPECT_NO_THROW(stop::check());
}

}  // namespace
}  // namespace ceiling
