#include "data/import/import.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/progress.h"
#include "base/stop.h"
#include "base/text.h"
#include "base/version.h"
#include "data/import/token_stream.h"
#include "data/tokenizer.h"

namespace ceiling {

namespace {

constexpr size_t kHeadTokens = size_t{1} << 20;  // of a document, that decide its split

// The tokenizer where we have it, else what the options say of it.
struct Vocabulary {
  TokenizerInfo info;
  std::string model_file;
};

Vocabulary vocabulary_of(const ImportOptions& options) {
  Vocabulary vocabulary;
  const bool is_file = fs::is_regular_file(options.tokenizer);
  if (options.tokenizer == "byte" || is_file) {
    const auto tokenizer =
        is_file ? sentencepiece_tokenizer(read_file(options.tokenizer),
                                          "spm:" + fs::path(options.tokenizer).filename().string())
                : byte_tokenizer();
    vocabulary = {tokenizer->info(), tokenizer->model_file()};
    const auto agree = [&](const char* option, int64_t given, int64_t unset, int64_t own) {
      if (given != unset && given != own)
        throw Error("{}: is {}, but tokenizer {} has {}", option, given, options.tokenizer, own);
    };
    agree("--vocab-size", options.vocab_size, 0, vocabulary.info.vocab_size);
    agree("--bos", options.bos, -1, vocabulary.info.bos);
    agree("--eos", options.eos, -1, vocabulary.info.eos);
    return vocabulary;
  }
  if (fs::path(options.tokenizer).extension() == ".model")
    throw Error("{}: there is no such tokenizer file", options.tokenizer);
  if (options.vocab_size == 0)
    throw Error(
        "--vocab-size: the number of ids of tokenizer '{}' is needed, ceiling does not know it",
        options.tokenizer);
  const std::string name =
      options.tokenizer.empty() ? fmt::format("ids:{}", options.vocab_size) : options.tokenizer;
  vocabulary.info = {name, sha256_hex(name), options.vocab_size, options.bos, options.eos};
  return vocabulary;
}

// Takes documents in pieces, chooses their split and writes them.
class DocumentWriter {
 public:
  DocumentWriter(DatasetWriter& writer, double valid_share, int64_t eos)
      : writer_(writer), valid_share_(valid_share), eos_(eos) {}

  // `whole_file_split`: a split for all documents, else chosen by hash.
  void write(const TokenStream::Piece& piece, std::optional<Split> whole_file_split) {
    if (!piece.tokens.empty() && piece.tokens.back() == static_cast<uint32_t>(eos_)) ++n_eos_;
    if (!chosen_) head_.insert(head_.end(), piece.tokens.begin(), piece.tokens.end());
    if (chosen_) writer_.append(split_, piece.tokens);
    if (!chosen_ && (head_.size() >= kHeadTokens || piece.ends_document) && !head_.empty()) {
      split_ = whole_file_split ? *whole_file_split : split_of_head();
      chosen_ = true;
      writer_.append(split_, head_);
    }
    if (!piece.ends_document) return;
    if (chosen_)
      writer_.end_document(split_, /*n_text_bytes=*/0);
    else
      ++n_empty_;
    chosen_ = false;
    head_.clear();
  }
  int64_t n_empty() const { return n_empty_; }
  int64_t n_eos() const { return n_eos_; }  // at the end of a piece

 private:
  Split split_of_head() const {
    const size_t n = std::min(head_.size(), kHeadTokens);
    const auto digest = Sha256().update(head_.data(), n * sizeof head_[0]).digest();
    const double hash =
        (digest[0] * 0x1p24 + digest[1] * 0x1p16 + digest[2] * 0x1p8 + digest[3]) * 0x1p-32;
    return hash >= 1 - valid_share_ ? Split::kValid : Split::kTrain;
  }

  DatasetWriter& writer_;
  double valid_share_;
  int64_t eos_;
  std::vector<uint32_t> head_;   // of the present document, until its split is known
  Split split_ = Split::kTrain;  // of the present document, once it is chosen
  bool chosen_ = false;
  int64_t n_empty_ = 0, n_eos_ = 0;
};

std::unique_ptr<TokenStream> open_stream(const ImportOptions& options, const std::string& file,
                                         const TokenizerInfo& tokenizer) {
  if (options.format == "llmc") return open_llmc(file, tokenizer);
  if (options.format == "megatron") return open_megatron(file, tokenizer);
  if (options.format == "numpy") return open_numpy(file, options.dtype, tokenizer);
  throw Error("import: format '{}' is unknown; llmc, megatron and numpy are read", options.format);
}

void check(const ImportOptions& options) {
  if (options.files.empty()) throw Error("import: name at least one file");
  if (!(options.valid_share >= 0 && options.valid_share < 1))
    throw Error("--valid-share: {} is out of range, must be at least 0 and below 1",
                format_double(options.valid_share));
  if (options.format == "numpy" && options.dtype.empty())
    throw Error("--dtype: the file does not tell the type of its ids; say uint16, uint32 or int32");
  if (options.format != "numpy" && !options.dtype.empty())
    throw Error("--dtype: {} files tell the type of their ids themselves", options.format);
}

nlohmann::json provenance(const ImportOptions& options, int64_t n_empty) {
  return {{"ceiling", kVersion},
          {"source",
           {{"format", options.format},
            {"files", options.files},
            {"valid_files", options.valid_files}}},
          {"options", {{"dtype", options.dtype}, {"valid_share", options.valid_share}}},
          {"documents", {{"dropped_empty", n_empty}}}};
}

}  // namespace

ImportSummary import_tokens(const ImportOptions& options) {
  check(options);
  const Vocabulary vocabulary = vocabulary_of(options);
  const TokenizerInfo& tokenizer = vocabulary.info;
  DatasetWriter writer(options.path, tokenizer,
                       {.shard_tokens = options.shard_tokens, .replace = options.replace});
  // All files are opened before one is read: a wrong name or a cut file shows at once.
  int64_t total_bytes = 0, bytes_done = 0;
  std::vector<std::pair<std::string, std::optional<Split>>> files;
  for (const std::string& file : options.files) files.emplace_back(file, std::nullopt);
  for (const std::string& file : options.valid_files) files.emplace_back(file, Split::kValid);
  for (const auto& [file, split] : files)
    total_bytes += open_stream(options, file, tokenizer)->bytes_total();

  DocumentWriter documents(writer, options.valid_share, tokenizer.eos);
  Progress progress("importing", total_bytes);
  for (const auto& [file, split] : files) {
    const auto stream = open_stream(options, file, tokenizer);
    while (const auto piece = stream->next()) {
      documents.write(*piece, split);
      stop::check();
      progress.update(bytes_done + stream->bytes_done(), bytes_done + stream->bytes_done());
    }
    bytes_done += stream->bytes_done();
  }
  const ImportSummary summary{writer.summary(Split::kTrain), writer.summary(Split::kValid),
                              documents.n_empty()};
  if (options.format != "megatron" && tokenizer.eos >= 0 && documents.n_eos() == 0)
    throw Error(
        "{}: EOS {} never occurs, so documents cannot be told apart; give another --eos, or none "
        "for "
        "one document per file",
        options.files[0], tokenizer.eos);
  if (options.valid_share > 0 && summary.valid.n_documents == 0)
    throw Error(
        "--valid-share: {} of {} documents leaves none for validation; raise it, or name files for "
        "validation with --valid-files",
        format_double(options.valid_share), summary.train.n_documents);
  if (!vocabulary.model_file.empty()) writer.add_file(kTokenizerFile, vocabulary.model_file);
  writer.commit(provenance(options, summary.n_empty));
  if (summary.n_empty > 0)
    spdlog::info("{} documents without tokens were dropped", format_thousands(summary.n_empty));
  for (const auto& [name, split] : {std::pair{"train", summary.train}, {"valid", summary.valid}})
    spdlog::info("{}: {} documents, {} tokens, {} shard{}", name,
                 format_thousands(split.n_documents), format_thousands(split.n_tokens),
                 split.n_shards, split.n_shards == 1 ? "" : "s");
  spdlog::info("{} is ready: tokenizer {} ({} ids), {} in {}, {:.1f} MB/s", options.path,
               tokenizer.name, format_thousands(tokenizer.vocab_size),
               format_bytes(static_cast<double>(bytes_done)), format_duration(progress.seconds()),
               static_cast<double>(bytes_done) / 1e6 / std::max(1e-9, progress.seconds()));
  return summary;
}

}  // namespace ceiling
