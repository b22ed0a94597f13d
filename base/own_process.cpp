#include "base/own_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/stop.h"
#include "base/text.h"

namespace ceiling {

namespace {

constexpr auto kToObey = std::chrono::seconds(15);

std::vector<std::string> command_line() {
  std::string text = read_file("/proc/self/cmdline");
  if (!text.empty() && text.back() == '\0') text.pop_back();
  return split(text, '\0');
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& ours) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable; ++variable) {
    const std::string name = std::string(*variable).substr(0, std::string(*variable).find('='));
    const bool replaced =
        std::any_of(ours.begin(), ours.end(), [&](const auto& pair) { return pair.first == name; });
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

int open_to_write(const std::string& path) {
  if (path.empty()) return -1;
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) throw Error("{}: cannot be written: {}", path, std::strerror(errno));
  return descriptor;
}

}  // namespace

std::vector<std::string> own_arguments() {
  std::vector<std::string> arguments = command_line();
  if (!arguments.empty()) arguments.erase(arguments.begin());
  return arguments;
}

OwnProcess::OwnProcess(const Options& options) {
  std::vector<std::string> arguments = command_line();
  arguments.resize(std::min<size_t>(arguments.size(), 1));
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> variables = environment_with(options.environment);
  const std::vector<char*> argv = pointers(arguments), envp = pointers(variables);
  const int out = open_to_write(options.out), err = open_to_write(options.err);
  const pid_t parent = ::getpid();
  const stop::HoldForwarded hold;
  process_ = ::fork();
  if (process_ == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(1);
    if (out >= 0) ::dup2(out, STDOUT_FILENO);
    if (err >= 0) ::dup2(err, STDERR_FILENO);
    if (options.kept_descriptor >= 0) ::fcntl(options.kept_descriptor, F_SETFD, 0);
    ::execve("/proc/self/exe", argv.data(), envp.data());
    ::_exit(127);
  }
  const int problem = errno;
  if (out >= 0) ::close(out);
  if (err >= 0) ::close(err);
  if (process_ < 0) throw Error("cannot start a process: {}", std::strerror(problem));
}

OwnProcess::OwnProcess(OwnProcess&& other) noexcept
    : process_(other.process_), status_(other.status_), ended_(other.ended_) {
  other.process_ = -1;
}

OwnProcess::~OwnProcess() {
  if (process_ < 0 || !running()) return;
  ask_to_stop(SIGTERM);
  const auto end = std::chrono::steady_clock::now() + kToObey;
  while (running() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  if (ended_) return;
  send(SIGKILL);
  while (::waitpid(process_, &status_, 0) < 0 && errno == EINTR) {
  }
}

bool OwnProcess::running() {
  if (!ended_ && ::waitpid(process_, &status_, WNOHANG) == process_) ended_ = true;
  return !ended_;
}

int OwnProcess::code() const { return WIFSIGNALED(status_) ? 1 : WEXITSTATUS(status_); }
int OwnProcess::ended_by() const { return WIFSIGNALED(status_) ? WTERMSIG(status_) : 0; }
void OwnProcess::ask_to_stop(int signal) { stop::forward(process_, signal); }
void OwnProcess::send(int signal) { ::kill(process_, signal); }

}  // namespace ceiling
