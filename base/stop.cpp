#include "base/stop.h"

#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>

#include "base/error.h"

namespace ceiling::stop {

namespace {
std::atomic<int> g_signal{0};        // a signal handler can reach nothing but a global
std::atomic<int64_t> g_first_ms{0};  // 0: no signal yet

int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void say(const char* text) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text));
}

struct PendingPath {
  std::atomic<bool> used{false};
  char path[4096];
};
std::mutex g_register_mutex;  // never taken by the handler
PendingPath g_pending[8];
std::atomic<bool> g_leaving{false};  // what is pending now is all that will be removed

// Only async-signal-safe calls: _Fork, because fork takes locks of malloc, which the interrupted
// thread may hold. The child waits until this process, and with it its writing threads, is gone; a
// third Ctrl-C must not end it before.
void remove_pending_after_exit() {
  g_leaving = true;
  const pid_t parent = getpid();
  for (PendingPath& pending : g_pending) {
    if (!pending.used || _Fork() != 0) continue;
    if (!pending.used) _exit(0);  // given up, and perhaps being rewritten, just before the fork
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_IGN);
    const timespec pause{0, 5'000'000};
    for (int i = 0; i < 400 && getppid() == parent; ++i) nanosleep(&pause, nullptr);
    execl("/bin/rm", "rm", "-rf", "--", pending.path, static_cast<char*>(nullptr));
    _exit(1);
  }
}

void handle(int signal) {
  const int interrupted_errno = errno;
  int64_t first = 0;
  if (g_first_ms.compare_exchange_strong(first, now_ms())) {
    g_signal = signal;
    say("\nstopping (signal received); a second signal exits at once\n");
    errno = interrupted_errno;
    return;
  }
  if (now_ms() - first < 50) return;
  say("\nexiting at once\n");
  remove_pending_after_exit();
  _exit(128 + signal);
}
// Sent by forward(): its value is the signal that the sender received.
int forwarded_signal() { return SIGRTMIN; }

void handle_forwarded(int /*signal*/, siginfo_t* info, void* /*context*/) {
  int64_t first = 0;
  if (g_first_ms.compare_exchange_strong(first, now_ms())) g_signal = info->si_value.sival_int;
}

// SIG_BLOCK or SIG_UNBLOCK, for this thread and what it starts. Returns whether it was blocked.
bool mask_forwarded(int how) {
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, forwarded_signal());
  ::pthread_sigmask(how, &set, &before);
  return sigismember(&before, forwarded_signal()) == 1;
}
}  // namespace

HoldForwarded::HoldForwarded() : held_before_(mask_forwarded(SIG_BLOCK)) {}
HoldForwarded::~HoldForwarded() {
  if (!held_before_) mask_forwarded(SIG_UNBLOCK);
}

void forward(int process, int signal) {
  sigval value{};
  value.sival_int = signal;
  ::sigqueue(process, forwarded_signal(), value);
}

void install_handlers() {
  struct sigaction action {};
  action.sa_handler = handle;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (signal == SIGHUP && before.sa_handler == SIG_IGN) continue;  // nohup
    sigaction(signal, &action, nullptr);
  }
  struct sigaction forwarded {};
  forwarded.sa_sigaction = handle_forwarded;
  forwarded.sa_flags = SA_SIGINFO;
  sigemptyset(&forwarded.sa_mask);
  sigaction(forwarded_signal(), &forwarded, nullptr);
  mask_forwarded(SIG_UNBLOCK);  // one that came earlier is handled here
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit fails the write, with a message
}

int requested() { return g_signal; }

void check() {
  if (const int signal = g_signal) throw Interrupted(signal);
}

void reset() {
  g_signal = 0;
  g_first_ms = 0;
}

void register_pending(const char* path) {
  const std::lock_guard lock(g_register_mutex);
  for (PendingPath& pending : g_pending) {
    if (pending.used || std::strlen(path) >= sizeof pending.path) continue;
    std::strcpy(pending.path, path);
    pending.used = true;
    // The process ends within this moment, and would leave behind what begins now: forks of a large
    // process take their time.
    while (g_leaving) ::pause();
    return;
  }
}

void unregister_pending(const char* path) {
  const std::lock_guard lock(g_register_mutex);
  for (PendingPath& pending : g_pending)
    if (pending.used && std::strcmp(pending.path, path) == 0) pending.used = false;
}

}  // namespace ceiling::stop
