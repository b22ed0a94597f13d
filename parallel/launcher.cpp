#include "parallel/launcher.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/stop.h"
#include "base/text.h"
#include "parallel/rank_environment.h"
#include "parallel/socket.h"

namespace ceiling {

namespace {

using Clock = std::chrono::steady_clock;

// After one has failed: to notice by themselves, and to obey a request.
constexpr double kToNotice_s = 30, kToObey_s = 15;

struct Rank {
  pid_t process = -1;
  int status = 0;
  bool running = false;
};

// Rank 0 gets the listening socket `listener`: no other job can take the port before it serves
// there, and the others can connect already.
std::vector<std::string> environment_of(int64_t rank, int64_t n_ranks, const Listener& listener) {
  std::vector<std::string> variables;
  const std::vector<std::pair<std::string, std::string>> ours = {
      {"RANK", std::to_string(rank)},
      {"WORLD_SIZE", std::to_string(n_ranks)},
      {"LOCAL_RANK", std::to_string(rank)},
      {"LOCAL_WORLD_SIZE", std::to_string(n_ranks)},
      {"MASTER_ADDR", "127.0.0.1"},
      {"MASTER_PORT", std::to_string(listener.port())},
      {"TORCHELASTIC_RUN_ID", ""},
      {"TORCHELASTIC_RESTART_COUNT", ""},
      {"TORCHELASTIC_USE_AGENT_STORE", ""},
      {kListenerVariable, std::to_string(listener.descriptor())},
      {kLaunchedVariable, "1"}};
  for (char** variable = environ; *variable; ++variable) {
    const std::string name = std::string(*variable).substr(0, std::string(*variable).find('='));
    bool replaced = false;
    for (const auto& [ours_name, value] : ours) replaced |= ours_name == name;
    if (!replaced) variables.emplace_back(*variable);
  }
  for (const auto& [name, value] : ours) variables.push_back(name + "=" + value);
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

pid_t start(int64_t rank, int64_t n_ranks, const Listener& listener) {
  std::string command_line = read_file("/proc/self/cmdline");
  if (!command_line.empty() && command_line.back() == '\0') command_line.pop_back();
  std::vector<std::string> arguments = split(command_line, '\0');
  std::vector<std::string> variables = environment_of(rank, n_ranks, listener);
  const std::vector<char*> argv = pointers(arguments), envp = pointers(variables);
  const pid_t parent = ::getpid();
  const pid_t process = ::fork();
  if (process < 0) throw Error("cannot start rank {}: {}", rank, std::strerror(errno));
  if (process > 0) return process;
  // A group of its own: what a terminal sends comes from this process's parent alone, once.
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);
  if (rank == 0) ::fcntl(listener.descriptor(), F_SETFD, 0);  // stays open over exec
  ::execve("/proc/self/exe", argv.data(), envp.data());
  ::_exit(127);
}

int code_of(int status) { return WIFSIGNALED(status) ? 1 : WEXITSTATUS(status); }

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Reaps whatever has ended. False once none is running.
bool reap(std::vector<Rank>& ranks, int& first_failure) {
  bool any = false;
  for (size_t i = 0; i < ranks.size(); ++i) {
    Rank& rank = ranks[i];
    if (!rank.running) continue;
    if (::waitpid(rank.process, &rank.status, WNOHANG) == rank.process) {
      rank.running = false;
      if (WIFSIGNALED(rank.status))
        spdlog::error("rank {} was ended by signal {} ({}){}", i, WTERMSIG(rank.status),
                      ::strsignal(WTERMSIG(rank.status)),
                      WTERMSIG(rank.status) == SIGKILL
                          ? "; if nobody sent it, the memory of this host was exhausted"
                          : "");
      if (code_of(rank.status) != 0 && first_failure == 0) first_failure = code_of(rank.status);
    }
    any |= rank.running;
  }
  return any;
}

template <class Send>
void to_running(const std::vector<Rank>& ranks, const Send& send) {
  for (const Rank& rank : ranks)
    if (rank.running) send(rank.process);
}

}  // namespace

int launch_ranks(int64_t n_ranks) {
  std::optional<Listener> listener(std::in_place, /*loopback=*/true, /*port=*/0);
  std::vector<Rank> ranks(static_cast<size_t>(n_ranks));
  for (size_t i = 0; i < ranks.size(); ++i)
    ranks[i] = {start(static_cast<int64_t>(i), n_ranks, *listener), 0, true};
  listener.reset();  // from here on the port answers as long as rank 0 lives
  int first_failure = 0;
  bool passed_on = false, asked = false, killed = false;
  Clock::time_point failed_at{};
  while (reap(ranks, first_failure)) {
    if (const int signal = stop::requested(); signal && !passed_on) {
      passed_on = true;
      to_running(ranks, [&](pid_t process) { stop::forward(process, signal); });
    }
    if (first_failure != 0) {
      if (failed_at == Clock::time_point{}) failed_at = Clock::now();
      const double waited_s = seconds_since(failed_at);
      if (waited_s > kToNotice_s && !asked) {
        asked = true;
        to_running(ranks, [](pid_t process) { ::kill(process, SIGTERM); });
      } else if (waited_s > kToNotice_s + kToObey_s && !killed) {
        killed = true;
        to_running(ranks, [](pid_t process) { ::kill(process, SIGKILL); });
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return first_failure;
}

}  // namespace ceiling
