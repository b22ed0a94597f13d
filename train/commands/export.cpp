// ceiling export RUN --out FOLDER
#include <cstdio>

#include "base/error.h"
#include "base/text.h"
#include "checkpoints/hf.h"
#include "train/command.h"
#include "train/load_model.h"
#include "train/logging.h"

namespace ceiling {
namespace {

struct Options {
  std::string run, out, format = "hf", precision = "fp32";
  int64_t max_shard_mib = 5120;
  bool replace = false;
};

TokenizerInfo tokenizer_info(const nlohmann::json& tokenizer) {
  return {.name = tokenizer.at("name"),
          .sha256 = tokenizer.at("sha256"),
          .vocab_size = tokenizer.at("vocab_size"),
          .bos = tokenizer.at("bos"),
          .eos = tokenizer.at("eos")};
}

int run(const Options& options) {
  const LoadedModel loaded = load_model(options.run, at::kCPU, at::kFloat);
  const TokenizerInfo tokenizer = tokenizer_info(loaded.state.at("tokenizer"));
  const HfExportSummary summary =
      export_hf(loaded.store->named_masters(), loaded.config.config->hf_layout(), tokenizer,
                loaded.tokenizer.get(),
                {.dtype = options.precision == "bf16" ? at::kBFloat16 : at::kFloat,
                 .max_shard_bytes = options.max_shard_mib << 20,
                 .bos = loaded.bos(),
                 .context = loaded.context(),
                 .replace = options.replace},
                options.out);
  fmt::print("{}: {} tensors in {} file{}, {}, {}, from {}\n", options.out, summary.n_tensors,
             summary.n_files, summary.n_files == 1 ? "" : "s",
             format_bytes(static_cast<double>(summary.size_bytes)), options.precision, loaded.path);
  if (summary.n_padding_rows > 0)
    fmt::print(
        "{} padding rows of embedding and head are left out: the tokenizer has {} ids, and "
        "vocab_size says so\n",
        summary.n_padding_rows, tokenizer.vocab_size);
  if (!loaded.task().empty())
    fmt::print("no tokenizer files: the tokens of the synthetic task {} stand for no text\n",
               loaded.task());
  else if (!loaded.tokenizer)
    fmt::print("no tokenizer files: the tokenizer '{}' is not stored with the run\n",
               tokenizer.name);
  return 0;
}

const RegisterCommand kExport(
    50, "export", "write a trained model as a Hugging Face folder", [](CLI::App& app) {
      auto options = std::make_shared<Options>();
      app.add_option("run", options->run, "run folder (newest valid checkpoint) or one checkpoint")
          ->required();
      app.add_option("--out", options->out, "folder to write; must not exist, or be empty")
          ->required();
      app.add_option("--format", options->format,
                     "hf: safetensors, config.json and tokenizer files for transformers or fla")
          ->capture_default_str()
          ->check(CLI::IsMember({"hf"}));
      app.add_option("--precision", options->precision, "of the tensors: fp32 or bf16")
          ->capture_default_str()
          ->check(CLI::IsMember({"fp32", "bf16"}));
      app.add_option("--max-shard-mib", options->max_shard_mib,
                     "cut the weights into files of at most this size")
          ->capture_default_str()
          ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
      app.add_flag("--replace", options->replace, "replace an earlier export in that folder");
      return [options] {
        start_logging();
        return run(*options);
      };
    });

}  // namespace
}  // namespace ceiling
