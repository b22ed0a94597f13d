#include "data/shard_file.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "base/stop.h"

namespace ceiling {

static_assert(std::endian::native == std::endian::little,
              "tokens are stored and hashed as little endian");

namespace {

constexpr const char* kFormat = "ceiling-tokens";
constexpr int64_t kTokenChunk = int64_t{1}
                                << 18;  // 512 KiB of u16: read whole once, to check its sum
constexpr int64_t kOffsetChunk = int64_t{1} << 14;  // 128 KiB
constexpr int64_t kBlock = int64_t{1} << 16;        // tokens per entry of the document index
constexpr int64_t kVerifyItems = int64_t{1} << 18;
constexpr size_t kMaxAttribute =
    60000;  // HDF5 keeps attributes of up to 64 KiB in the object's header

int64_t token_bytes(int64_t vocab_size) { return vocab_size <= kMaxVocabU16 ? 2 : 4; }

}  // namespace

// ---- writing

ShardWriter::ShardWriter(const std::string& folder, const std::string& file_name,
                         const TokenizerInfo& tokenizer, Split split)
    : path_(folder + "/" + file_name),
      tokenizer_(tokenizer),
      split_(split),
      item_bytes_(token_bytes(tokenizer.vocab_size)),
      pending_offsets_{0} {
  record_.file = file_name;
  const auto lock = hdf5::lock();
  file_ = hdf5::create_file(path_);
}

void ShardWriter::append(std::span<const uint32_t> tokens) {
  const auto limit = static_cast<uint64_t>(tokenizer_.vocab_size);
  const size_t chunk_bytes = static_cast<size_t>(kTokenChunk * item_bytes_);
  while (!tokens.empty()) {
    const size_t used = pending_tokens_.size();
    const size_t n =
        std::min(tokens.size(), (chunk_bytes - used) / static_cast<size_t>(item_bytes_));
    pending_tokens_.resize(used + n * static_cast<size_t>(item_bytes_));
    uint8_t* to = pending_tokens_.data() + used;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t token = tokens[i];
      if (token >= limit)
        throw Error("{}: token {} in document {} of split {} is not below the vocabulary size {}",
                    path_, token, record_.n_documents, split_name(split_), limit);
      std::memcpy(to + i * static_cast<size_t>(item_bytes_), &token,
                  static_cast<size_t>(item_bytes_));
    }
    tokens = tokens.subspan(n);
    record_.n_tokens += static_cast<int64_t>(n);
    if (pending_tokens_.size() == chunk_bytes) flush_tokens();
  }
}

void ShardWriter::end_document(int64_t n_text_bytes) {
  if (record_.n_tokens == static_cast<int64_t>(pending_offsets_.back()))
    throw Error("{}: document {} of split {} has no tokens", path_, record_.n_documents,
                split_name(split_));
  record_.n_documents += 1;
  record_.n_text_bytes += n_text_bytes;
  if (pending_offsets_.size() == static_cast<size_t>(kOffsetChunk)) flush_offsets();
  pending_offsets_.push_back(static_cast<uint64_t>(record_.n_tokens));
}

void ShardWriter::flush_tokens() {
  const auto n = static_cast<int64_t>(pending_tokens_.size()) / item_bytes_;
  const auto lock = hdf5::lock();
  const hid_t type = item_bytes_ == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
  // The first flush decides the chunk: a shard smaller than one chunk takes no more room than it
  // needs.
  if (!tokens_.is_open())
    tokens_ = hdf5::create_dataset(file_, path_, "tokens", type,
                                   static_cast<hsize_t>(std::max<int64_t>(n, 1)));
  if (n > 0)
    hdf5::append(tokens_, path_, type, static_cast<hsize_t>(written_tokens_),
                 pending_tokens_.data(), static_cast<hsize_t>(n));
  tokens_hash_.update(pending_tokens_.data(), pending_tokens_.size());
  written_tokens_ += n;
  pending_tokens_.clear();
}

void ShardWriter::flush_offsets() {
  const auto n = static_cast<hsize_t>(pending_offsets_.size());
  const auto lock = hdf5::lock();
  if (!offsets_.is_open())
    offsets_ = hdf5::create_dataset(file_, path_, "doc_offsets", H5T_STD_U64LE, n);
  hdf5::append(offsets_, path_, H5T_STD_U64LE, static_cast<hsize_t>(written_offsets_),
               pending_offsets_.data(), n);
  offsets_hash_.update(pending_offsets_.data(), n * sizeof(uint64_t));
  written_offsets_ += static_cast<int64_t>(n);
  pending_offsets_.clear();
}

ShardRecord ShardWriter::finish() {
  flush_tokens();
  flush_offsets();
  record_.tokens_sha256 = tokens_hash_.hex();
  record_.doc_offsets_sha256 = offsets_hash_.hex();
  const auto lock = hdf5::lock();
  const auto write = [&](const char* name, const auto& value) {
    hdf5::write_attribute(file_, path_, name, value);
  };
  write("format", std::string(kFormat));
  write("format_version", kDataFormatVersion);
  write("split", std::string(split_name(split_)));
  write("tokenizer", tokenizer_.name);
  write("tokenizer_sha256", tokenizer_.sha256);
  write("vocab_size", tokenizer_.vocab_size);
  write("bos", tokenizer_.bos);
  write("eos", tokenizer_.eos);
  write("n_tokens", record_.n_tokens);
  write("n_documents", record_.n_documents);
  write("n_text_bytes", record_.n_text_bytes);
  write("tokens_sha256", record_.tokens_sha256);
  write("doc_offsets_sha256", record_.doc_offsets_sha256);
  if (!tokens_.close() || !offsets_.close() || !file_.close())
    throw Error("{}: cannot write: {}", path_, hdf5::reason());
  return record_;
}

void add_provenance(const std::string& shard_path, const std::string& provenance) {
  const auto lock = hdf5::lock();
  hdf5::Handle file = hdf5::open_file(shard_path, /*writable=*/true);
  hdf5::write_attribute(file, shard_path, "provenance",
                        provenance.size() <= kMaxAttribute ? provenance : "see manifest.json");
  if (!file.close()) throw Error("{}: cannot write: {}", shard_path, hdf5::reason());
}

// ---- reading

ShardFile::ShardFile(const std::string& folder, const ShardRecord& record,
                     const TokenizerInfo& tokenizer, Split split)
    : path_(folder + "/" + record.file), record_(record), tokenizer_(tokenizer), split_(split) {}

void ShardFile::open() {
  if (file_) return;
  RawFile file(path_, record_.size_bytes);
  if (!tokens_) {
    const auto lock = hdf5::lock();
    const hdf5::Handle shard = hdf5::open_file(path_, /*writable=*/false);
    check_attributes(shard);
    tokens_.emplace(shard, path_, "tokens", token_bytes(tokenizer_.vocab_size), record_.n_tokens,
                    record_.size_bytes);
    offsets_.emplace(shard, path_, "doc_offsets", 8, record_.n_documents + 1, record_.size_bytes);
  }
  file_.emplace(std::move(file));
  if (block_document_.empty()) {
    try {
      index_documents();
    } catch (...) {
      file_.reset();
      block_document_.clear();
      throw;
    }
  }
}

void ShardFile::close() { file_.reset(); }

void ShardFile::check_attributes(hid_t file) const {
  const auto text = [&](const char* name, const std::string& wanted, const char* by) {
    const std::string found = hdf5::read_text_attribute(file, path_, name);
    if (found != wanted) throw Error("{}: {} is '{}', {} '{}'", path_, name, found, by, wanted);
  };
  const auto number = [&](const char* name, int64_t wanted) {
    const int64_t found = hdf5::read_int_attribute(file, path_, name);
    if (found != wanted)
      throw Error("{}: {} is {}, the manifest says {}", path_, name, found, wanted);
  };
  const char* manifest = "the manifest says";
  text("format", kFormat, "a shard says");
  const int64_t version = hdf5::read_int_attribute(file, path_, "format_version");
  if (version != kDataFormatVersion)
    throw Error("{}: format version {} is unknown, this build reads version {}", path_, version,
                kDataFormatVersion);
  text("split", split_name(split_), manifest);
  text("tokenizer", tokenizer_.name, manifest);
  text("tokenizer_sha256", tokenizer_.sha256, manifest);
  number("vocab_size", tokenizer_.vocab_size);
  number("bos", tokenizer_.bos);
  number("eos", tokenizer_.eos);
  number("n_tokens", record_.n_tokens);
  number("n_documents", record_.n_documents);
  number("n_text_bytes", record_.n_text_bytes);
  text("tokens_sha256", record_.tokens_sha256, manifest);
  text("doc_offsets_sha256", record_.doc_offsets_sha256, manifest);
}

void ShardFile::index_documents() {
  const int64_t n_blocks = record_.n_tokens / kBlock + 1;
  std::vector<uint64_t> index;
  index.reserve(static_cast<size_t>(n_blocks) + 1);
  std::vector<uint64_t> part(static_cast<size_t>(kOffsetChunk));
  uint64_t previous = 0;
  for (int64_t first = 0; first < offsets_->size(); first += kOffsetChunk) {
    const int64_t n = std::min(kOffsetChunk, offsets_->size() - first);
    offsets_->read(*file_, first, n, part.data());
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t offset = part[static_cast<size_t>(i)];
      const bool is_first = first + i == 0;
      if (is_first ? offset != 0 : offset <= previous)
        throw Error("{}: doc_offsets is not ascending from 0 at document {}", path_, first + i);
      if (offset > static_cast<uint64_t>(record_.n_tokens))
        throw Error("{}: doc_offsets of document {} is {}, past the {} tokens", path_, first + i,
                    offset, record_.n_tokens);
      while (index.size() * kBlock <= offset) index.push_back(static_cast<uint64_t>(first + i));
      previous = offset;
    }
  }
  if (previous != static_cast<uint64_t>(record_.n_tokens))
    throw Error("{}: doc_offsets ends at {}, the shard has {} tokens", path_, previous,
                record_.n_tokens);
  index.resize(static_cast<size_t>(n_blocks) + 1, static_cast<uint64_t>(record_.n_documents));
  block_document_ = std::move(index);
}

void ShardFile::read_tokens(int64_t first, std::span<uint32_t> out) {
  open();
  const auto n = static_cast<int64_t>(out.size());
  const auto limit = static_cast<uint32_t>(tokenizer_.vocab_size);
  uint32_t largest = 0;
  if (tokens_->item_bytes() == 2) {
    scratch_.resize(out.size() * 2);
    tokens_->read(*file_, first, n, scratch_.data());
    for (size_t i = 0; i < out.size(); ++i) {
      uint16_t token;
      std::memcpy(&token, scratch_.data() + 2 * i, 2);
      largest = std::max<uint32_t>(largest, token);
      out[i] = token;
    }
  } else {
    tokens_->read(*file_, first, n, out.data());
    for (const uint32_t token : out) largest = std::max(largest, token);
  }
  if (largest < limit || n == 0) return;
  const auto bad =
      std::find_if(out.begin(), out.end(), [&](uint32_t token) { return token >= limit; });
  throw Error("{}: token {} at position {} is not below the vocabulary size {}", path_, *bad,
              first + (bad - out.begin()), limit);
}

void ShardFile::document_starts(int64_t first, int64_t last, int64_t shift,
                                std::vector<int64_t>& out) {
  open();
  const uint64_t from = block_document_[static_cast<size_t>(first / kBlock)];
  const uint64_t to = std::min(block_document_[static_cast<size_t>((last - 1) / kBlock) + 1],
                               static_cast<uint64_t>(record_.n_documents));
  if (from >= to) return;
  scratch_.resize((to - from) * sizeof(uint64_t));
  offsets_->read(*file_, static_cast<int64_t>(from), static_cast<int64_t>(to - from),
                 scratch_.data());
  for (uint64_t i = 0; i < to - from; ++i) {
    uint64_t start;
    std::memcpy(&start, scratch_.data() + i * sizeof start, sizeof start);
    const auto at = static_cast<int64_t>(start);
    if (at >= first && at < last) out.push_back(at + shift);
  }
}

void ShardFile::verify(const std::function<void(int64_t)>& progress) {
  open();
  const auto hash_all = [&](int64_t n, int64_t item_bytes, const auto& read_and_hash) {
    for (int64_t first = 0; first < n; first += kVerifyItems) {
      stop::check();
      const int64_t part = std::min(kVerifyItems, n - first);
      read_and_hash(first, part);
      progress(part * item_bytes);
    }
  };
  const auto compare = [&](const char* name, const std::string& found, const std::string& wanted) {
    if (found != wanted)
      throw Error(
          "{}: SHA-256 of {} is {}, the manifest says {}: the file is damaged; restore or prepare "
          "it again",
          path_, name, found, wanted);
  };
  Sha256 tokens_hash, offsets_hash;
  std::vector<uint32_t> tokens;
  std::vector<uint16_t> narrow;
  hash_all(record_.n_tokens, tokens_->item_bytes(), [&](int64_t first, int64_t n) {
    tokens.resize(static_cast<size_t>(n));
    read_tokens(first, tokens);
    if (tokens_->item_bytes() == 4) {
      tokens_hash.update(tokens.data(), tokens.size() * 4);
    } else {
      narrow.assign(tokens.begin(), tokens.end());
      tokens_hash.update(narrow.data(), narrow.size() * 2);
    }
  });
  compare("tokens", tokens_hash.hex(), record_.tokens_sha256);
  std::vector<uint64_t> offsets;
  hash_all(record_.n_documents + 1, 8, [&](int64_t first, int64_t n) {
    offsets.resize(static_cast<size_t>(n));
    offsets_->read(*file_, first, n, offsets.data());
    offsets_hash.update(offsets.data(), offsets.size() * 8);
  });
  compare("doc_offsets", offsets_hash.hex(), record_.doc_offsets_sha256);
}

}  // namespace ceiling
