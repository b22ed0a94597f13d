// ceiling prepare: text -> a dataset.
#include "data/prepare.h"

#include "base/error.h"
#include "base/text.h"
#include "train/command.h"
#include "train/logging.h"

namespace ceiling {
namespace {

struct Options {
  std::vector<std::string> inputs;
  TextOptions text;
  std::string invalid_utf8 = "error";
  bool no_bos = false;
  PrepareOptions prepare;
};

int run(Options options) {
  options.text.document_separator = unescape(options.text.document_separator);
  options.text.replace_invalid = options.invalid_utf8 == "replace";
  options.prepare.bos = !options.no_bos;
  prepare(*file_source(options.inputs, options.text), options.prepare, nullptr);
  return 0;
}

const RegisterCommand kPrepare(10, "prepare", "text to a dataset of tokens", [](CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.footer(
      "Reads .txt (one document per file, or see --document-separator) and .jsonl (one document "
      "per line), plain, gzip or\n"
      "zstd, in files, folders or quoted patterns. Each document becomes BOS, its tokens, EOS. "
      "Empty documents and those of\n"
      "white space only are dropped and counted. Nothing appears at --out before all of it is "
      "written.\n\n"
      "  ceiling prepare --input 'corpus/*.jsonl.zst' --tokenizer spm:32000 --out data/books\n"
      "  ceiling prepare --input novel.txt --document-separator '\\n\\n\\n' --tokenizer byte --out "
      "data/novel\n"
      "  ceiling train configs/retnet-160m.yaml data.path=data/books");
  app.add_option("--input", options->inputs, "files, folders or quoted patterns")
      ->required()
      ->expected(1, CLI::detail::expected_max_vector_size)
      ->allow_extra_args();
  app.add_option("--tokenizer", options->prepare.tokenizer,
                 "byte; spm:VOCAB, a SentencePiece BPE trained on this text; or a .model file")
      ->required();
  app.add_option("--out", options->prepare.path, "the dataset's folder")->required();
  app.add_flag("--replace", options->prepare.replace,
               "put the new dataset in place of an existing one");
  CLI::Option* valid_share = app.add_option(
      "--valid-share", options->prepare.valid_share,
      "share of the documents kept for validation, chosen by their hash; 0: none. A share that is "
      "asked for and gets no document is an error");
  valid_share->capture_default_str();
  app.add_option("--text-key", options->text.text_key, "key of the text in .jsonl")
      ->capture_default_str();
  app.add_option("--document-separator", options->text.document_separator,
                 "what separates documents in .txt, such as '\\n\\n' for a blank line; default: a "
                 "file is one document");
  app.add_option("--invalid-utf8", options->invalid_utf8,
                 "error, or replace: malformed characters become U+FFFD and are counted")
      ->capture_default_str()
      ->check(CLI::IsMember({"error", "replace"}));
  app.add_flag("--no-bos", options->no_bos, "no BOS before a document");
  app.add_option("--max-document-bytes", options->text.max_document_bytes,
                 "a longer document is an error; memory grows to about 5 times it")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option("--shard-tokens", options->prepare.shard_tokens,
                 "a shard file is closed at the first document end past this")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option("--threads", options->prepare.threads,
                 "encoder threads; 0: one per core; does not change the result")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  return [options, valid_share] {
    start_logging();
    options->prepare.valid_may_be_empty = valid_share->empty();
    return run(*options);
  };
});

}  // namespace
}  // namespace ceiling
