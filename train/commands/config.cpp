// ceiling config explain [TOPIC] | ceiling config show FILE [overrides]
#include <cstdio>
#include <memory>

#include "train/command.h"
#include "train/config_reference.h"
#include "train/run_config.h"

namespace ceiling {

namespace {

struct ConfigCommand {
  std::string topic, file;
  bool markdown = false;
  std::vector<std::string> overrides;
};

const RegisterCommand kConfig(
    70, "config", "explain the keys of a config file, show a file's values", [](CLI::App& app) {
      const auto options = std::make_shared<ConfigCommand>();
      app.require_subcommand(1);
      CLI::App* explain =
          app.add_subcommand("explain", "print what keys there are, their ranges and defaults");
      explain->add_option("topic", options->topic,
                          "a section, key or architecture: train, train.lr, lr, retnet");
      explain->add_flag("--markdown", options->markdown, "all keys as docs/config.md");
      CLI::App* show = app.add_subcommand("show", "check a config file and print all values");
      show->add_option("file", options->file, "YAML file")->required();
      show->add_option("overrides", options->overrides, "section.key=value ...");
      return [options, explain] {
        std::string text;
        if (!*explain) {
          RunConfig config = load_run_config(options->file, options->overrides);
          text = resolved_yaml(config);
        } else {
          text = options->markdown ? config_reference_markdown() : explain_config(options->topic);
        }
        std::fputs(text.c_str(), stdout);
        return 0;
      };
    });

}  // namespace

}  // namespace ceiling
