// The commands of `ceiling`. One file per command in train/commands/, which registers itself;
// main.cpp edits no list.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace ceiling {

// Declares options on `app` (and sub-commands, if any) and returns what runs after parsing: its
// result is the exit code.
using CommandSetup = std::function<std::function<int()>(CLI::App& app)>;

struct RegisterCommand {
  // `order` places the command in `ceiling --help`, a number of its own: first what a user does,
  // in the order of doing, then what looks at the results, the configuration and the machine.
  RegisterCommand(int order, std::string name, std::string summary, CommandSetup setup);
};

// Parses the command line and runs the command. Exit codes: 0 done, 1 an Error (one message on
// stderr), 2 bad usage, 4 training diverged, 128 + signal when stopped by a signal.
int run_command_line(int argc, char** argv);

}  // namespace ceiling
