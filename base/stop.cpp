#include "base/stop.h"

#include <time.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>

#include "base/error.h"

namespace ceiling::stop {

namespace {
std::atomic<int> g_signal{0};          // a signal handler can reach nothing but a global
std::atomic<int64_t> g_first_ms{0};

int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void say(const char* text) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text));
}

void handle(int signal) {
  int none = 0;
  if (g_signal.compare_exchange_strong(none, signal)) {
    g_first_ms = now_ms();
    say("\nstopping (signal received); a second signal exits at once\n");
    return;
  }
  if (now_ms() - g_first_ms < 50) return;
  say("\nexiting at once\n");
  _exit(128 + signal);
}
}  // namespace

void install_handlers() {
  struct sigaction action {};
  action.sa_handler = handle;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) sigaction(signal, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int requested() { return g_signal; }

void check() {
  if (const int signal = g_signal) throw Interrupted(signal);
}

void reset() { g_signal = 0; }

}  // namespace ceiling::stop
