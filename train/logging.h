// Where log lines go: the console and RUN/log.txt. The only place that sets spdlog's sinks.
#pragma once
#include <cstdint>
#include <string>

namespace ceiling {

// Console only, at the start of every command.
void start_logging();
// Of this process only warnings and errors are written from here on, marked with its rank.
void speak_from_warnings_up(int64_t rank);
// Adds RUN/log.txt, appended to over resumes.
void log_to_file(const std::string& path);

// One line at the bottom of a terminal that rewrites itself; log lines scroll above it.
class StatusLine {
 public:
  // As log.progress: "auto" shows it where stderr is a terminal, "on" always, "off" never.
  explicit StatusLine(const std::string& progress = "auto");
  ~StatusLine();
  bool shown() const { return shown_; }  // what show() is given can be seen
  void show(const std::string& text);
  void clear();

 private:
  bool shown_;
};

}  // namespace ceiling
