#include "train/logging.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "base/error.h"

namespace ceiling {

namespace {

std::atomic<bool> g_status_shown{false};  // of this process's one terminal

// The console sink, but it wipes a status line before a log line is written.
class ConsoleSink final : public spdlog::sinks::stderr_color_sink_mt {
 public:
  void log(const spdlog::details::log_msg& message) override {
    if (g_status_shown.exchange(false)) std::fputs("\r\033[K", stderr);
    spdlog::sinks::stderr_color_sink_mt::log(message);
  }
};

}  // namespace

void start_logging() {
  auto logger = std::make_shared<spdlog::logger>("ceiling", std::make_shared<ConsoleSink>());
  logger->set_pattern("%H:%M:%S %^%L%$ %v");
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(logger);
}

void speak_from_warnings_up(int64_t rank) {
  spdlog::default_logger()->set_level(spdlog::level::warn);
  spdlog::default_logger()->set_pattern(fmt::format("%H:%M:%S %^%L%$ [rank {}] %v", rank));
}

void log_to_file(const std::string& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    sink->set_pattern("%Y-%m-%d %H:%M:%S %L %v");
    spdlog::default_logger()->sinks().push_back(sink);
  } catch (const spdlog::spdlog_ex& failure) {
    throw Error("{}: cannot write the log: {}", path, failure.what());
  }
}

StatusLine::StatusLine(const std::string& progress)
    : shown_(progress == "on" || (progress == "auto" && ::isatty(STDERR_FILENO) == 1)) {}
StatusLine::~StatusLine() { clear(); }

void StatusLine::show(const std::string& text) {
  if (!shown_) return;
  winsize size{};
  const size_t width =
      ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
  std::fprintf(stderr, "\r\033[K%s", text.substr(0, width).c_str());
  std::fflush(stderr);
  g_status_shown = true;
}

void StatusLine::clear() {
  if (shown_ && g_status_shown.exchange(false)) std::fputs("\r\033[K", stderr);
}

}  // namespace ceiling
