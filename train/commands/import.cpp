// ceiling import FOLDER --out RUN
#include <cstdio>

#include "base/error.h"
#include "base/text.h"
#include "base/version.h"
#include "checkpoints/hf.h"
#include "checkpoints/store.h"
#include "train/command.h"
#include "train/load_model.h"
#include "train/logging.h"

namespace ceiling {
namespace {

struct Options {
  std::string folder, out;
  bool no_tokenizer = false;
};

HfWeights::Shapes shapes_of(LanguageModel& model) {
  HfWeights::Shapes shapes;
  for (const Parameter* parameter : model.parameters())
    shapes.emplace_back(parameter->name, parameter->shape);
  return shapes;
}

int run(const Options& options) {
  CheckpointStore checkpoints(options.out + "/checkpoints");
  if (!checkpoints.list().empty())
    throw Error("{}: holds checkpoints already; choose another --out", checkpoints.folder());
  HfModel theirs = read_hf_model(options.folder);
  const HfTokenizer tokenizer =
      read_hf_tokenizer(options.folder, theirs.json, /*ids_only=*/options.no_tokenizer);
  const HfWeights weights(options.folder, theirs.config->hf_layout());
  ModelSection section{theirs.architecture, std::move(theirs.config)};
  const std::unique_ptr<LanguageModel> model = section.config->build();
  weights.check_shapes(shapes_of(*model));
  const ParameterStore store(*model, at::kCPU, at::kFloat, /*seed=*/1, /*with_optimizer=*/false);
  weights.load(store.named_masters());

  CheckpointContent content;
  content.weights = store.named_masters();
  content.state = {{"step", 0},
                   {"model", model_json(section, tokenizer.bos)},
                   {"tokenizer", tokenizer_json(tokenizer.info)},
                   {"imported_from", options.folder},
                   {"versions", {{"ceiling", kVersion}, {"torch", kTorchVersion}}}};
  if (!tokenizer.model_file.empty())
    content.files.emplace_back(kTokenizerFile, tokenizer.model_file);
  checkpoints.save(content);
  fmt::print("{}: {}, {} parameters, tokenizer {}; ready for generate, eval and export\n",
             options.out, section.architecture,
             format_count(static_cast<double>(model->n_parameters())), tokenizer.info.name);
  return 0;
}

const RegisterCommand kImport(
    55, "import", "read a Hugging Face folder into a run folder", [](CLI::App& app) {
      auto options = std::make_shared<Options>();
      app.add_option("folder", options->folder, "folder with config.json and safetensors")
          ->required();
      app.add_option("--out", options->out, "run folder to write")->required();
      app.add_flag("--no-tokenizer", options->no_tokenizer,
                   "weights only, where the tokenizer is not one that ceiling runs without loss");
      return [options] {
        start_logging();
        return run(*options);
      };
    });

}  // namespace
}  // namespace ceiling
