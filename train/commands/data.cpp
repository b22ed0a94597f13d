// ceiling data inspect|verify|audit|import
#include <cstdio>
#include <optional>

#include "base/error.h"
#include "base/progress.h"
#include "base/text.h"
#include "data/import/import.h"
#include "data/shard.h"
#include "train/audit.h"
#include "train/command.h"
#include "train/describe.h"
#include "train/logging.h"

namespace ceiling {
namespace {

std::string split_text(const SplitSummary& split) {
  std::string text =
      fmt::format("{} tokens in {} documents, {} shards", format_thousands(split.n_tokens),
                  format_thousands(split.n_documents), split.n_shards);
  if (split.n_text_bytes > 0)
    text +=
        fmt::format(", {:.2f} bytes of text per token",
                    static_cast<double>(split.n_text_bytes) / static_cast<double>(split.n_tokens));
  return text;
}

int inspect(const std::string& path, bool json) {
  DatasetReader dataset(path);
  if (json) {
    std::printf("%s\n", dataset.manifest().dump(2).c_str());
    return 0;
  }
  const TokenizerInfo& tokenizer = dataset.tokenizer();
  std::vector<DescriptionRow> rows = {
      {"dataset", path},
      {"tokenizer", fmt::format("{}, {} ids, BOS {}, EOS {}, sha256 {}", tokenizer.name,
                                format_thousands(tokenizer.vocab_size), tokenizer.bos,
                                tokenizer.eos, tokenizer.sha256.substr(0, 16))},
      {"fingerprint", dataset.fingerprint()}};
  for (const Split split : {Split::kTrain, Split::kValid}) {
    const SplitSummary summary = dataset.summary(split);
    rows.push_back({split_name(split), split_text(summary)});
    std::vector<uint32_t> first(static_cast<size_t>(std::min<int64_t>(summary.n_tokens, 16)));
    if (first.empty()) continue;
    dataset.read_tokens(split, 0, first);
    rows.push_back({"first tokens", fmt::format("{}", fmt::join(first, " "))});
  }
  for (const auto& [key, value] : dataset.manifest().at("provenance").items()) {
    const std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
    rows.push_back({key, text.size() <= 200 ? text : text.substr(0, 200) + " ... (--json)"});
  }
  std::printf("%s", description_text(rows).c_str());
  return 0;
}

int verify(const std::string& path) {
  DatasetReader dataset(path);
  const int64_t n_tokens =
      dataset.summary(Split::kTrain).n_tokens + dataset.summary(Split::kValid).n_tokens;
  std::optional<Progress> progress;  // the size in bytes is known with the first report
  dataset.verify([&](int64_t done_bytes, int64_t all_bytes) {
    if (!progress) progress.emplace("verifying " + path, all_bytes);
    progress->update(done_bytes, done_bytes);
  });
  progress.reset();
  std::printf("%s: %s tokens, every hash is right\n", path.c_str(),
              format_thousands(n_tokens).c_str());
  return 0;
}

int audit(const std::string& run_dir) {
  std::optional<Progress> progress;
  const AuditReport report = audit_run(run_dir, [&](int64_t step, int64_t n_steps) {
    if (!progress) progress.emplace("auditing " + run_dir, n_steps);
    progress->update(step, 0);
  });
  progress.reset();
  std::printf("%s: %s", run_dir.c_str(), audit_text(report).c_str());
  return 0;
}

int import(const ImportOptions& options) {
  const ImportSummary summary = import_tokens(options);
  std::printf("%s", description_text({{"dataset", options.path},
                                      {"train", split_text(summary.train)},
                                      {"valid", split_text(summary.valid)}})
                        .c_str());
  return 0;
}

const RegisterCommand kData(
    60, "data", "look at, check and import datasets of tokens", [](CLI::App& app) {
      struct Options {
        std::string path;
        bool json = false;
        ImportOptions import;
      };
      auto options = std::make_shared<Options>();
      app.require_subcommand(1);
      CLI::App* look = app.add_subcommand("inspect", "what a dataset holds");
      look->add_option("dataset", options->path, "dataset folder")->required();
      look->add_flag("--json", options->json, "print the manifest");
      CLI::App* check = app.add_subcommand("verify", "read every token and compare all hashes");
      check->add_option("dataset", options->path, "dataset folder")->required();
      CLI::App* prove = app.add_subcommand(
          "audit",
          "prove from a run's records that it consumed each sample as often as it should, "
          "whatever it was interrupted by");
      prove->add_option("run", options->path, "run folder")->required();
      CLI::App* bring = app.add_subcommand("import",
                                           "tokens that another program has made: llm.c .bin, "
                                           "Megatron .bin/.idx, plain NumPy arrays");
      ImportOptions& i = options->import;
      bring->add_option("format", i.format, "llmc, megatron or numpy")
          ->required()
          ->check(CLI::IsMember({"llmc", "megatron", "numpy"}));
      bring
          ->add_option("files", i.files,
                       "files of the training split (or of both, see --valid-share)")
          ->required();
      bring->add_option("--valid-files", i.valid_files, "files that are wholly for validation");
      bring->add_option("--out", i.path, "dataset folder to make")->required();
      bring
          ->add_option("--tokenizer", i.tokenizer,
                       "byte, a SentencePiece .model, or any name together with --vocab-size")
          ->required();
      bring->add_option("--vocab-size", i.vocab_size, "ids must be below this");
      bring->add_option("--bos", i.bos, "id that begins a document");
      bring->add_option("--eos", i.eos,
                        "id that ends a document; llmc and numpy files are cut after it");
      bring->add_option("--dtype", i.dtype, "numpy: uint16, uint32 or int32");
      bring
          ->add_option("--valid-share", i.valid_share,
                       "share of documents kept for validation, chosen by hash")
          ->capture_default_str();
      bring->add_option("--shard-tokens", i.shard_tokens, "tokens per shard")
          ->capture_default_str();
      bring->add_flag("--replace", i.replace, "replace a dataset of this name");
      return [=] {
        start_logging();
        if (look->parsed()) return inspect(options->path, options->json);
        if (prove->parsed()) return audit(options->path);
        return check->parsed() ? verify(options->path) : import(options->import);
      };
    });

}  // namespace
}  // namespace ceiling
