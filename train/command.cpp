#include "train/command.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/stop.h"
#include "train/trainer.h"

namespace ceiling {

namespace {
struct Command {
  int order;
  std::string name, summary;
  CommandSetup setup;
};
std::vector<Command>& commands() {
  static std::vector<Command> all;
  return all;
}
}  // namespace

RegisterCommand::RegisterCommand(int order, std::string name, std::string summary,
                                 CommandSetup setup) {
  commands().push_back({order, std::move(name), std::move(summary), std::move(setup)});
}

int run_command_line(int argc, char** argv) {
  CLI::App app(
      "ceiling trains language models of many architectures on the same tokens in the same order.\n"
      "Start with: ./ceiling train configs/quickstart.yaml",
      "ceiling");
  app.require_subcommand(1);
  app.footer(
      "`ceiling COMMAND --help` explains a command, `ceiling config explain` every key of a config "
      "file.");
  std::sort(commands().begin(), commands().end(), [](const Command& a, const Command& b) {
    return std::tie(a.order, a.name) < std::tie(b.order, b.name);
  });
  std::function<int()> chosen;
  for (const Command& command : commands()) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    std::function<int()> run = command.setup(*sub);
    sub->callback([&chosen, run] { chosen = run; });
  }
  try {
    app.parse(argc, argv);
    return chosen();
  } catch (const CLI::ParseError& problem) {
    const int code = app.exit(problem);
    return code == 0 ? 0 : 2;
  } catch (const Interrupted& stopped) {
    return 128 + stopped.signal;
  } catch (const Error& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "ceiling: error: %s\n", error.what());
    return dynamic_cast<const Diverged*>(&error) ? kDiverged : 1;
  } catch (const std::exception& problem) {  // of a library: torch's ends in a list of its calls
    const std::string text = problem.what();
    std::fflush(stdout);
    std::fprintf(stderr, "ceiling: error: %s\n",
                 text.substr(0, text.find("\nException raised from")).c_str());
    return 1;
  }
}

}  // namespace ceiling
