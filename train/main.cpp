#include "base/stop.h"
#include "train/command.h"

int main(int argc, char** argv) {
  ceiling::stop::install_handlers();
  return ceiling::run_command_line(argc, argv);
}
