#include "data/prepare.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/progress.h"
#include "base/stop.h"
#include "base/text.h"
#include "base/version.h"
#include "data/pipeline.h"
#include "data/tokenizer.h"
#include "data/train_sentencepiece.h"

namespace ceiling {

namespace {

constexpr size_t kBatchBytes = size_t{1} << 18;
constexpr size_t kBatchDocuments = 1024;
constexpr int64_t kBytesUnderWay = int64_t{1} << 22;  // of text, per thread; tokens take 4 times it
// Of stored bytes, for learning words: a larger source is sampled by document hash.
constexpr double kSampleBytes = 256.0 * (1 << 20);

struct Batch {
  std::vector<std::string> texts;
  std::vector<std::vector<uint32_t>> tokens;
  std::vector<Split> splits;
  int64_t n_bytes = 0;
};

// Two independent numbers in [0, 1) that depend on the text alone.
struct TextHash {
  double for_split, for_sample;
};
TextHash hash_of(const std::string& text) {
  const auto digest = Sha256().update(text).digest();
  const auto share = [&](size_t at) {
    return (digest[at] * 0x1p24 + digest[at + 1] * 0x1p16 + digest[at + 2] * 0x1p8 +
            digest[at + 3]) *
           0x1p-32;
  };
  return {share(0), share(4)};
}

// Documents worth keeping, and how many were not.
class KeptDocuments {
 public:
  explicit KeptDocuments(const TextSource& source) : stream_(source.open()) {}
  bool next(std::string& text) {
    while (stream_->next(text)) {
      ++n_read;
      if (text.empty())
        ++n_empty;
      else if (text.find_first_not_of(" \t\n\r\v\f") == std::string::npos)
        ++n_blank;
      else
        return true;
    }
    return false;
  }
  DocumentStream& stream() const { return *stream_; }
  int64_t n_read = 0, n_empty = 0, n_blank = 0;

 private:
  std::unique_ptr<DocumentStream> stream_;
};

const char* plural(int64_t count) { return count == 1 ? "" : "s"; }

int thread_count(int wanted) {
  return wanted > 0 ? wanted : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

PrepareSummary counts_of(const KeptDocuments& documents) {
  PrepareSummary summary;
  summary.n_read = documents.n_read;
  summary.n_empty = documents.n_empty;
  summary.n_blank = documents.n_blank;
  summary.n_replaced = documents.stream().n_replaced();
  return summary;
}

void require_enough(const PrepareOptions& options, const PrepareSummary& summary,
                    const TextSource& source) {
  const auto require = [&](const char* split, const SplitSummary& found,
                           const std::string& advice) {
    if (found.n_tokens >= options.min_split_tokens) return;
    throw Error(
        "{}: the {} split would have {} tokens in {} document{}, at least {} are needed (read from "
        "{}: {} document{}, of "
        "which {} empty and {} of white space only were dropped); {}",
        options.path, split, found.n_tokens, found.n_documents, plural(found.n_documents),
        options.min_split_tokens, source.description(), summary.n_read, plural(summary.n_read),
        summary.n_empty, summary.n_blank, advice);
  };
  require("train", summary.train,
          summary.valid.n_documents == 0
              ? "use more text"
              : fmt::format("{} document{} fell into the validation split: use more text, or set "
                            "valid_share 0 (a text that was divided by the same rule before lies "
                            "wholly on one side)",
                            summary.valid.n_documents, plural(summary.valid.n_documents)));
  if (options.valid_share == 0) return;
  if (options.valid_may_be_empty && summary.valid.n_documents == 0) {
    spdlog::warn(
        "no document fell into the validation share of {}, so the dataset has no validation split; "
        "a larger --valid-share or smaller documents (--document-separator) give one",
        options.valid_share);
    return;
  }
  require("valid", summary.valid,
          "use more text, split it into documents (document_separator), or set valid_share 0");
}

std::shared_ptr<const Tokenizer> train_tokenizer(const TextSource& source, int64_t vocab_size,
                                                 const PrepareOptions& options) {
  const double share =
      std::min(1.0, kSampleBytes / static_cast<double>(std::max<int64_t>(1, source.size_bytes())));
  WordCounts words;
  {
    Progress progress("counting words", source.size_bytes());
    KeptDocuments documents(source);
    for (std::string text; documents.next(text);) {
      stop::check();
      if (share == 1 || hash_of(text).for_sample < share) words.add(text);
      progress.update(documents.stream().bytes_done(), words.n_bytes());
    }
    if (words.n_bytes() == 0) require_enough(options, counts_of(documents), source);
  }
  spdlog::info("training tokenizer spm:{} on {} of text ({:.0f} % of the documents)", vocab_size,
               format_bytes(static_cast<double>(words.n_bytes())), 100 * share);
  const std::string model = train_sentencepiece(std::move(words), vocab_size);
  return sentencepiece_tokenizer(model, fmt::format("spm:{}", vocab_size));
}

std::shared_ptr<const Tokenizer> make_tokenizer(const TextSource& source,
                                                const PrepareOptions& options) {
  const std::string& wanted = options.tokenizer;
  if (wanted == "byte") return byte_tokenizer();
  if (wanted.starts_with("spm:")) {
    const auto vocab_size = parse_int(std::string_view(wanted).substr(4));
    if (!vocab_size || *vocab_size < 1 || *vocab_size > (1 << 20))
      throw Error("tokenizer {}: a vocabulary is a number up to {}, as in spm:32000", wanted,
                  1 << 20);
    return train_tokenizer(source, *vocab_size, options);
  }
  if (!wanted.ends_with(".model"))
    throw Error(
        "tokenizer {}: write byte, spm:VOCAB such as spm:32000, or the path of a .model file",
        wanted);
  const std::string path = expand_home(wanted), model = read_file(path);
  // Named by its size and not by its path, so that datasets of one tokenizer go together.
  const int64_t vocab_size = sentencepiece_tokenizer(model, path)->info().vocab_size;
  return sentencepiece_tokenizer(model, fmt::format("spm:{}", vocab_size));
}

// BOS, tokens, EOS. In pieces, because a long document's tokens are not to be copied.
void write_document(DatasetWriter& writer, const TokenizerInfo& tokenizer, bool bos, Split split,
                    std::span<const uint32_t> tokens, size_t n_text_bytes) {
  const auto first = static_cast<uint32_t>(tokenizer.bos),
             last = static_cast<uint32_t>(tokenizer.eos);
  if (bos) writer.append(split, {&first, 1});
  writer.append(split, tokens);
  writer.append(split, {&last, 1});
  writer.end_document(split, static_cast<int64_t>(n_text_bytes));
}

void log_summary(const PrepareSummary& summary, const TokenizerInfo& tokenizer,
                 const PrepareOptions& options) {
  spdlog::info("read {} documents; dropped {} empty ones and {} of white space only",
               format_thousands(summary.n_read), format_thousands(summary.n_empty),
               format_thousands(summary.n_blank));
  if (summary.n_replaced > 0)
    spdlog::warn("{} malformed characters were replaced by U+FFFD",
                 format_thousands(summary.n_replaced));
  for (const auto& [name, split] : {std::pair{"train", summary.train}, {"valid", summary.valid}})
    spdlog::info("{}: {} document{}, {} tokens, {:.2f} bytes per token, {} shard{}", name,
                 format_thousands(split.n_documents), plural(split.n_documents),
                 format_thousands(split.n_tokens),
                 static_cast<double>(split.n_text_bytes) /
                     static_cast<double>(std::max<int64_t>(1, split.n_tokens)),
                 split.n_shards, plural(split.n_shards));
  const auto bytes = static_cast<double>(summary.train.n_text_bytes + summary.valid.n_text_bytes);
  spdlog::info("{} is ready: tokenizer {} ({} ids), {} of text in {}, {:.1f} MB/s", options.path,
               tokenizer.name, format_thousands(tokenizer.vocab_size), format_bytes(bytes),
               format_duration(summary.seconds), bytes / 1e6 / summary.seconds);
}

}  // namespace

PrepareSummary prepare(const TextSource& source, const PrepareOptions& options,
                       const nlohmann::json& request) {
  if (fs::exists(options.path) && !options.replace)
    throw Error("{}: exists already; choose another folder or remove it", options.path);
  if (!(options.valid_share >= 0 && options.valid_share < 1))
    throw Error("valid_share: {} is out of range, must be at least 0 and below 1",
                options.valid_share);
  spdlog::info("preparing {} from {}", options.path, source.description());
  const auto tokenizer = make_tokenizer(source, options);
  if (options.bos && tokenizer->info().bos < 0)
    throw Error("tokenizer {}: has no BOS; use --no-bos (data.bos: false)", options.tokenizer);
  DatasetWriter writer(options.path, tokenizer->info(),
                       {.shard_tokens = options.shard_tokens, .replace = options.replace});
  KeptDocuments documents(source);
  double seconds = 0;
  const int threads = thread_count(options.threads);
  std::atomic<int64_t> bytes_done{0};  // of the source; the producer's, shown by the consumer
  int64_t bytes_written = 0;
  {
    Progress progress("encoding", source.size_bytes());
    OrderedPipeline<Batch> pipeline;
    pipeline.max_cost = kBytesUnderWay * threads;
    pipeline.cost = [](const Batch& batch) { return batch.n_bytes; };
    pipeline.produce = [&](Batch& batch) {
      std::string text;
      while (static_cast<size_t>(batch.n_bytes) < kBatchBytes &&
             batch.texts.size() < kBatchDocuments && documents.next(text)) {
        batch.n_bytes += static_cast<int64_t>(text.size());
        batch.texts.push_back(std::move(text));
      }
      bytes_done = documents.stream().bytes_done();
      return !batch.texts.empty();
    };
    pipeline.transform = [&](Batch& batch) {
      for (const std::string& text : batch.texts) {
        batch.tokens.push_back(tokenizer->encode(text));
        const bool valid = hash_of(text).for_split >= 1 - options.valid_share;
        batch.splits.push_back(valid ? Split::kValid : Split::kTrain);
      }
    };
    pipeline.consume = [&](Batch& batch) {
      for (size_t i = 0; i < batch.texts.size(); ++i)
        write_document(writer, tokenizer->info(), options.bos, batch.splits[i], batch.tokens[i],
                       batch.texts[i].size());
      bytes_written += batch.n_bytes;
    };
    pipeline.while_waiting = [&] {
      stop::check();
      progress.update(bytes_done, bytes_written);
    };
    pipeline.run(threads);
    seconds = progress.seconds();
  }
  PrepareSummary summary = counts_of(documents);
  summary.seconds = seconds;
  summary.train = writer.summary(Split::kTrain);
  summary.valid = writer.summary(Split::kValid);
  require_enough(options, summary, source);
  if (!tokenizer->model_file().empty()) writer.add_file(kTokenizerFile, tokenizer->model_file());
  writer.commit({{"ceiling", kVersion},
                 {"source", documents.stream().provenance()},
                 {"options",
                  {{"tokenizer", options.tokenizer},
                   {"valid_share", options.valid_share},
                   {"bos", options.bos}}},
                 {"documents",
                  {{"read", summary.n_read},
                   {"dropped_empty", summary.n_empty},
                   {"dropped_white_space", summary.n_blank},
                   {"replaced_characters", summary.n_replaced}}},
                 {"request", request}});
  log_summary(summary, tokenizer->info(), options);
  return summary;
}

}  // namespace ceiling
