#include "base/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "base/stop.h"

namespace ceiling {

namespace {

constexpr char kResult = 'r', kError = 'e';  // the first byte of what the child sends

class Pipe {
 public:
  Pipe() {
    if (::pipe2(ends_, O_CLOEXEC) != 0) throw Error("cannot make a pipe: {}", std::strerror(errno));
  }
  ~Pipe() { close_write_end(), ::close(ends_[0]); }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void close_write_end() {
    if (ends_[1] >= 0) ::close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  int ends_[2] = {-1, -1};
};

// Killed, if it still runs, and waited for.
class Child {
 public:
  explicit Child(pid_t id) : id_(id) {}
  ~Child() {
    if (id_ < 0) return;
    ::kill(id_, SIGKILL);
    wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  int wait() {
    int status = 0;
    while (::waitpid(id_, &status, 0) < 0 && errno == EINTR) {
    }
    id_ = -1;
    return status;
  }

 private:
  pid_t id_;
};

void send(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) ::_exit(1);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

[[noreturn]] void run_child(const std::function<std::string()>& work, int results, int messages) {
  // The parent decides: it kills this process when it is asked to stop, and when it dies.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) std::signal(signal, SIG_IGN);
  ::dup2(messages, STDOUT_FILENO);
  ::dup2(messages, STDERR_FILENO);
  try {
    const std::string result = work();
    send(results, std::string(1, kResult));
    send(results, result);
  } catch (const std::exception& failure) {
    send(results, std::string(1, kError) + failure.what());
  }
  ::_exit(0);  // no destructors: they belong to the parent
}

// Appends what there is to read; false at the end.
bool receive(int descriptor, std::string& bytes) {
  std::array<char, 65536> block;
  const ssize_t n = ::read(descriptor, block.data(), block.size());
  if (n > 0) bytes.append(block.data(), static_cast<size_t>(n));
  return n > 0 || (n < 0 && errno == EINTR);
}

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.find_last_of('\n') + 1);
}

}  // namespace

std::string run_in_child(const std::string& what, const std::function<std::string()>& work) {
  Pipe results, messages;
  const pid_t id = ::fork();
  if (id < 0) throw Error("{}: cannot start a process: {}", what, std::strerror(errno));
  if (id == 0) run_child(work, results.write_end(), messages.write_end());
  Child child(id);
  results.close_write_end();
  messages.close_write_end();
  std::string result, said;
  std::array<pollfd, 2> open = {
      {{results.read_end(), POLLIN, 0}, {messages.read_end(), POLLIN, 0}}};
  while (open[0].fd >= 0 || open[1].fd >= 0) {
    stop::check();
    if (::poll(open.data(), open.size(), /*timeout_ms=*/100) <= 0) continue;
    for (size_t i = 0; i < open.size(); ++i)  // poll skips a negative descriptor
      if (open[i].revents != 0 && !receive(open[i].fd, i == 0 ? result : said)) open[i].fd = -1;
  }
  const int status = child.wait();
  const bool finished = WIFEXITED(status) && WEXITSTATUS(status) == 0 && !result.empty();
  if (!finished)
    throw Error("{}: the process ended by {} {}{}", what,
                WIFSIGNALED(status) ? "signal" : "exit code",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
                said.empty() ? "" : ": " + last_line(said));
  const bool failed = result[0] == kError;
  result.erase(0, 1);
  if (failed) throw Error(result);
  return result;
}

}  // namespace ceiling
