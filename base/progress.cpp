#include "base/progress.h"

#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/text.h"

namespace ceiling {

namespace {

constexpr std::chrono::milliseconds kTerminalPause{200};
constexpr std::chrono::seconds kLogPause{10};

size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
}

}  // namespace

Progress::Progress(std::string what, int64_t total)
    : what_(std::move(what)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      next_(start_ + (terminal_ ? std::chrono::nanoseconds(kTerminalPause) : kLogPause)) {}

Progress::~Progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::update(int64_t done, int64_t work_bytes) {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? std::chrono::nanoseconds(kTerminalPause) : kLogPause);
  std::string line = fmt::format("{} | {}", what_, format_bytes(static_cast<double>(work_bytes)));
  line += fmt::format(" | {:.1f} MB/s", static_cast<double>(work_bytes) / 1e6 / seconds());
  if (total_ > 0 && done > 0) {
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
    line += fmt::format(" | {:.0f} % | ETA {}", 100 * share,
                        format_duration(seconds() * (1 - share) / share));
  }
  if (!terminal_) return spdlog::info("{}", line);
  std::fprintf(stderr, "\r\033[K%s", line.substr(0, terminal_width()).c_str());
  std::fflush(stderr);
  shown_ = true;
}

}  // namespace ceiling
