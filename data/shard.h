// A dataset on disk: a folder of HDF5 token shards and one manifest.json. The format is described
// in docs/data-format.md.
//   DatasetWriter  writes one, atomically: the folder appears under its name only when all of it
//                  is on disk
//   DatasetReader  checks and reads one
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace ceiling {

// What a dataset must remember of its tokenizer. Ids below `vocab_size`; -1 for a token that does
// not exist.
struct TokenizerInfo {
  std::string name;    // "byte", "spm:2000"
  std::string sha256;  // of the model file; of the name where there is no file
  int64_t vocab_size = 0;
  int64_t bos = -1, eos = -1;
  bool operator==(const TokenizerInfo&) const = default;
};

enum class Split { kTrain, kValid };
const char* split_name(Split split);  // "train", "valid"

struct DatasetWriterOptions {
  int64_t shard_tokens = int64_t{1} << 27;  // a shard is closed at the first document end past this
  bool replace = false;  // an existing dataset of that name is replaced at commit, else an Error
};

struct SplitSummary {
  int64_t n_tokens = 0, n_documents = 0, n_shards = 0;
  int64_t n_text_bytes = 0;  // UTF-8 bytes the tokens stand for: bits per byte = nats / ln 2 *
                             // tokens / bytes; 0 unknown
};

class DatasetWriter {
 public:
  DatasetWriter(const std::string& path, const TokenizerInfo& tokenizer,
                const DatasetWriterOptions& options);
  ~DatasetWriter();
  // One document, with its BOS/EOS already in `tokens` as the dataset wants them. Error on a token
  // >= vocab_size.
  void add_document(Split split, std::span<const uint32_t> tokens, int64_t n_text_bytes);
  // The same in pieces, for a document that does not fit into memory. Error on a document without
  // tokens.
  void append(Split split, std::span<const uint32_t> tokens);
  void end_document(Split split, int64_t n_text_bytes);
  // Extra files to lie beside the shards (the tokenizer model).
  void add_file(const std::string& name, std::string_view content);
  SplitSummary summary(Split split) const;
  // `provenance` (any JSON object) goes into the manifest: sources, options, versions.
  void commit(const nlohmann::json& provenance);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Opens a dataset and checks what can be checked without reading all tokens: manifest, versions,
// dtype, counts, vocabulary and file sizes; a shard itself is opened and checked when it is first
// read. Never writes and takes no lock, so read-only folders and files that another process has
// locked are fine. Not safe for use by several threads at once; several readers in one process are.
class DatasetReader {
 public:
  explicit DatasetReader(const std::string& path);
  ~DatasetReader();
  const std::string& path() const;
  const TokenizerInfo& tokenizer() const;
  const nlohmann::json& manifest() const;
  SplitSummary summary(Split split) const;
  std::string fingerprint()
      const;  // SHA-256 over what decides the token stream: shard hashes and order, tokenizer
  // Tokens [first, first + out.size()) of the split's concatenated stream. Error names the shard,
  // also on token >= vocab.
  void read_tokens(Split split, int64_t first, std::span<uint32_t> out);
  // Starts of all documents that begin inside [first, last), as positions in the stream, ascending.
  std::vector<int64_t> document_starts(Split split, int64_t first, int64_t last);
  std::string shard_at(Split split, int64_t position) const;  // path of the shard that holds it
  // Reads every token and compares hashes and counts; Error at the first shard that is not as the
  // manifest says. `progress` hears (bytes done, bytes in all) every half mebibyte.
  void verify(const std::function<void(int64_t, int64_t)>& progress = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ceiling
