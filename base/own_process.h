// This very program run again with other arguments: ranks of a run, jobs of a comparison.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace ceiling {

class OwnProcess {
 public:
  struct Options {
    std::vector<std::string> arguments;                            // without the program's name
    std::vector<std::pair<std::string, std::string>> environment;  // in addition, or in place
    std::string out, err;      // files to write stdout and stderr to; empty: as this process
    int kept_descriptor = -1;  // stays open in it
  };
  // Started in a group of its own, so that a signal of the terminal reaches this process alone, and
  // asked to stop (SIGTERM) when this one dies. Error if no process can be made.
  explicit OwnProcess(const Options& options);
  ~OwnProcess();  // asked to stop and, after a while, killed, if it still runs; waited for
  OwnProcess(OwnProcess&& other) noexcept;
  OwnProcess& operator=(OwnProcess&&) = delete;

  bool running();  // false once it has ended
  // Once it has ended: the exit code, 1 if a signal ended it.
  int code() const;
  int ended_by() const;  // that signal, or 0
  // Asks it to stop as it would of itself at `signal`; asked twice it does no more than once.
  void ask_to_stop(int signal);
  void send(int signal);

 private:
  int process_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

// The arguments that this process was started with, without the program's name.
std::vector<std::string> own_arguments();

}  // namespace ceiling
