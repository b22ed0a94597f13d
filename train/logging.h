// Where log lines go: the console and RUN/log.txt. The only place that sets spdlog's sinks.
#pragma once
#include <string>

namespace ceiling {

// Console only, at the start of every command.
void start_logging();
// Adds RUN/log.txt, appended to over resumes.
void log_to_file(const std::string& path);

// One line at the bottom of a terminal that rewrites itself; log lines scroll above it. Does
// nothing where stderr is no terminal.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine();
  void show(const std::string& text);
  void clear();

 private:
  bool terminal_;
};

}  // namespace ceiling
