// One shard: one HDF5 file with /tokens, /doc_offsets and attributes (docs/data-format.md).
//   ShardWriter  grows one by pieces of documents, in bounded memory
//   ShardFile    checks one at the first touch and then reads it past HDF5, straight from the file
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "data/hdf5.h"
#include "data/raw_array.h"
#include "data/shard.h"

namespace ceiling {

inline constexpr int64_t kDataFormatVersion = 1;
inline constexpr int64_t kMaxVocabU16 = 65536;  // up to here tokens are stored as u16, above as u32

// What the manifest says of a shard; the shard's own attributes say the same.
struct ShardRecord {
  std::string file;  // name inside the dataset's folder
  int64_t n_tokens = 0, n_documents = 0, n_text_bytes = 0;
  std::string tokens_sha256;       // of the tokens as stored, little endian
  std::string doc_offsets_sha256;  // of the offsets as stored
  int64_t size_bytes = 0;          // of the file
};

class ShardWriter {
 public:
  // Makes `folder`/`file_name`, which must not exist.
  ShardWriter(const std::string& folder, const std::string& file_name,
              const TokenizerInfo& tokenizer, Split split);
  // More tokens of the present document. Error on a token >= vocab_size.
  void append(std::span<const uint32_t> tokens);
  void end_document(int64_t n_text_bytes);
  int64_t n_tokens() const { return record_.n_tokens; }
  // Writes what is left and closes the file. `size_bytes` stays 0: add_provenance still changes it.
  ShardRecord finish();

 private:
  void flush_tokens();
  void flush_offsets();

  std::string path_;
  TokenizerInfo tokenizer_;
  Split split_;
  int64_t item_bytes_;
  hdf5::Handle file_, tokens_, offsets_;
  std::vector<uint8_t> pending_tokens_;  // not yet written, as stored
  std::vector<uint64_t> pending_offsets_;
  int64_t written_tokens_ = 0, written_offsets_ = 0;
  Sha256 tokens_hash_, offsets_hash_;
  ShardRecord record_;
};

// Adds the provenance to a finished shard.
void add_provenance(const std::string& shard_path, const std::string& provenance);

// Reads one shard. HDF5 is asked once, at the first touch: attributes, types and where the chunks
// lie. From then on tokens come by pread from these places (no HDF5 handle stays open, no lock is
// shared), each chunk's Fletcher32 sum being checked when it is first touched.
class ShardFile {
 public:
  ShardFile(const std::string& folder, const ShardRecord& record, const TokenizerInfo& tokenizer,
            Split split);
  const std::string& path() const { return path_; }
  const ShardRecord& record() const { return record_; }
  bool is_open() const { return file_.has_value(); }
  void open();   // the file descriptor; the first call checks the shard
  void close();  // frees the descriptor, keeps what was learnt

  void read_tokens(int64_t first, std::span<uint32_t> out);
  void document_starts(int64_t first, int64_t last, int64_t shift, std::vector<int64_t>& out);
  // Reads everything; `progress` hears the number of bytes just read.
  void verify(const std::function<void(int64_t)>& progress);

 private:
  void check_attributes(hid_t file) const;
  void index_documents();

  std::string path_;
  ShardRecord record_;
  TokenizerInfo tokenizer_;
  Split split_;
  std::optional<RawFile> file_;
  std::optional<RawArray> tokens_, offsets_;
  std::vector<uint64_t>
      block_document_;  // index of the first document that starts at or after block b
  std::vector<uint8_t> scratch_;
};

}  // namespace ceiling
