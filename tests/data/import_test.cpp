#include "data/import/import.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "data/tokenizer.h"
#include "tests/support/temp_dir.h"
#include "tests/support/token_sets.h"

namespace ceiling {
namespace {

constexpr uint32_t kEos = 299;

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}
template <class T>
std::string stored(const std::vector<uint32_t>& tokens) {
  std::string bytes;
  for (const uint32_t token : tokens) put(bytes, static_cast<T>(token));
  return bytes;
}
std::vector<uint32_t> flat(const Documents& documents) {
  std::vector<uint32_t> all;
  for (const auto& document : documents) all.insert(all.end(), document.begin(), document.end());
  return all;
}
std::string llmc_file(int32_t magic, int32_t version, int32_t n, const std::string& tokens) {
  std::string bytes;
  for (const int32_t value : {magic, version, n}) put(bytes, value);
  return bytes + std::string(1024 - bytes.size(), '\0') + tokens;
}

// Documents of random tokens, each with EOS at its end and nowhere else.
Documents documents_with_eos(int64_t n, uint64_t seed) {
  Documents documents = random_documents(n, 1, 300, kEos, seed);
  for (auto& document : documents) document.push_back(kEos);
  return documents;
}

Documents read_documents(const std::string& path, Split split = Split::kTrain) {
  DatasetReader reader(path);
  const int64_t n = reader.summary(split).n_tokens;
  std::vector<uint32_t> tokens(static_cast<size_t>(n));
  reader.read_tokens(split, 0, tokens);
  std::vector<int64_t> starts = reader.document_starts(split, 0, n);
  starts.push_back(n);
  Documents documents;
  for (size_t i = 0; i + 1 < starts.size(); ++i)
    documents.emplace_back(tokens.begin() + starts[i], tokens.begin() + starts[i + 1]);
  return documents;
}

class Import : public ::testing::Test {
 protected:
  std::string put_file(const std::string& name, const std::string& bytes) {
    write_file_atomic(dir_ / name, bytes);
    return dir_ / name;
  }
  ImportOptions options(const std::string& format, const std::vector<std::string>& files) {
    ImportOptions o;
    o.format = format;
    o.files = files;
    o.path = dir_ / "out";
    o.tokenizer = "gpt2";
    o.vocab_size = 300;
    o.eos = kEos;
    if (format == "numpy") o.dtype = "uint16";
    return o;
  }
  // The message, after making sure that nothing was left.
  std::string error_of(const ImportOptions& o) {
    std::string message = "no error";
    try {
      import_tokens(o);
    } catch (const Error& error) {
      message = error.what();
    }
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      EXPECT_FALSE(entry.is_directory()) << entry.path();
    return message;
  }
  // Megatron's pair of files, as its IndexedDatasetBuilder writes it; `per_sequence` documents are
  // cut into sequences of it.
  template <class T>
  std::string put_megatron(const std::string& stem, const Documents& documents, uint8_t code,
                           size_t per_sequence, bool modes = false) {
    std::vector<int32_t> lengths;
    std::vector<int64_t> offsets, first = {0};
    int64_t offset = 0;
    for (const auto& document : documents) {
      for (size_t at = 0; at < document.size(); at += per_sequence) {
        const size_t n = std::min(per_sequence, document.size() - at);
        lengths.push_back(static_cast<int32_t>(n));
        offsets.push_back(offset);
        offset += static_cast<int64_t>(n * sizeof(T));
      }
      first.push_back(static_cast<int64_t>(lengths.size()));
    }
    std::string index("MMIDIDX\0\0", 9);
    put(index, uint64_t{1});
    put(index, code);
    put(index, uint64_t{lengths.size()});
    put(index, uint64_t{first.size()});
    for (const int32_t value : lengths) put(index, value);
    for (const int64_t value : offsets) put(index, value);
    for (const int64_t value : first) put(index, value);
    if (modes) index += std::string(lengths.size(), '\0');
    put_file(stem + ".idx", index);
    put_file(stem + ".bin", stored<T>(flat(documents)));
    return dir_ / stem;
  }
  const TempDir dir_;
};

TEST_F(Import, LlmcFilesBecomeDocumentsCutAtEos) {
  const Documents a = documents_with_eos(300, 1), b = documents_with_eos(200, 2);
  const std::string file_a = put_file(
      "a.bin",
      llmc_file(20240520, 1, static_cast<int32_t>(flat(a).size()), stored<uint16_t>(flat(a))));
  const std::string file_b = put_file(
      "b.bin",
      llmc_file(20240801, 7, static_cast<int32_t>(flat(b).size()), stored<uint32_t>(flat(b))));
  const ImportSummary summary = import_tokens(options("llmc", {file_a, file_b}));
  Documents both = a;
  both.insert(both.end(), b.begin(), b.end());
  EXPECT_EQ(read_documents(dir_ / "out"), both);
  EXPECT_EQ(summary.train.n_documents, 500);
  DatasetReader reader(dir_ / "out");
  reader.verify();
  EXPECT_EQ(reader.tokenizer(), (TokenizerInfo{"gpt2", sha256_hex("gpt2"), 300, -1, kEos}));
  EXPECT_EQ(reader.summary(Split::kTrain).n_text_bytes, 0) << "unknown";
  EXPECT_EQ(reader.manifest()["provenance"]["source"]["files"][1], file_b);
}

TEST_F(Import, NumpyFilesOfEachTypeGiveTheSameTokens) {
  const Documents documents = documents_with_eos(300, 1);
  const std::map<std::string, std::string> files = {{"uint16", stored<uint16_t>(flat(documents))},
                                                    {"uint32", stored<uint32_t>(flat(documents))},
                                                    {"int32", stored<int32_t>(flat(documents))}};
  for (const auto& [dtype, bytes] : files) {
    ImportOptions o = options("numpy", {put_file(dtype, bytes)});
    o.dtype = dtype;
    o.replace = true;
    import_tokens(o);
    EXPECT_EQ(read_documents(dir_ / "out"), documents);
  }
}

TEST_F(Import, LastDocumentOfAFileNeedsNoEos) {
  import_tokens(options("numpy", {put_file("a", stored<uint16_t>({1, 2, kEos, 3})),
                                  put_file("b", stored<uint16_t>({4, kEos}))}));
  EXPECT_EQ(read_documents(dir_ / "out"), (Documents{{1, 2, kEos}, {3}, {4, kEos}}));
}

TEST_F(Import, DocumentsBeginAtBosWhereThereIsNoEos) {
  ImportOptions o = options("numpy", {put_file("a", stored<uint16_t>({7, 1, 2, 7, 7, 3}))});
  o.eos = -1, o.bos = 7;
  import_tokens(o);
  EXPECT_EQ(read_documents(dir_ / "out"), (Documents{{7, 1, 2}, {7}, {7, 3}}));
}

TEST_F(Import, WithoutMarksAFileIsOneDocument) {
  ImportOptions o = options(
      "numpy", {put_file("a", stored<uint16_t>({7, 1})), put_file("b", stored<uint16_t>({2}))});
  o.eos = -1;
  import_tokens(o);
  EXPECT_EQ(read_documents(dir_ / "out"), (Documents{{7, 1}, {2}}));
}

TEST_F(Import, MegatronDocumentsAreKept) {
  // No EOS among them: the index alone says where they end.
  const Documents documents = random_documents(500, 1, 400, 250, 3);
  const std::vector<std::string> stems = {
      put_megatron<uint16_t>("u16", documents, 8, 1000),
      put_megatron<int32_t>("i32", documents, 4, 7, /*modes=*/true),
      put_megatron<uint8_t>("u8", documents, 1, 50),
      put_megatron<int64_t>("i64", documents, 5, 64)};
  for (const std::string& stem : stems) {
    for (const char* suffix : {"", ".bin", ".idx"}) {
      ImportOptions o = options("megatron", {stem + suffix});
      o.replace = true;
      import_tokens(o);
      ASSERT_EQ(read_documents(dir_ / "out"), documents) << stem << suffix;
    }
  }
}

TEST_F(Import, MegatronDocumentsWithoutTokensAreDroppedAndCounted) {
  const std::string stem = put_megatron<uint16_t>("m", {{}, {1, 2}, {}, {3}, {}}, 8, 10);
  const ImportSummary summary = import_tokens(options("megatron", {stem}));
  EXPECT_EQ(summary.n_empty, 3);
  EXPECT_EQ(read_documents(dir_ / "out"), (Documents{{1, 2}, {3}}));
}

TEST_F(Import, ValidationShareIsChosenByHashSoEqualDocumentsStayTogether) {
  const Documents once = documents_with_eos(1000, 5);
  Documents documents = once;
  documents.insert(documents.end(), once.begin(), once.end());
  ImportOptions o = options("numpy", {put_file("a", stored<uint16_t>(flat(documents)))});
  o.valid_share = 0.2;
  import_tokens(o);
  const Documents train = read_documents(dir_ / "out"),
                  valid = read_documents(dir_ / "out", Split::kValid);
  EXPECT_EQ(train.size() + valid.size(), 2000u);
  EXPECT_NEAR(static_cast<double>(valid.size()), 400, 80);
  const std::set<std::vector<uint32_t>> in_train(train.begin(), train.end());
  for (const auto& document : valid) EXPECT_FALSE(in_train.contains(document));
}

TEST_F(Import, ValidationFilesAreKeptApart) {
  ImportOptions o = options("numpy", {put_file("a", stored<uint16_t>({1, kEos}))});
  o.valid_files = {put_file("b", stored<uint16_t>({2, kEos}))};
  import_tokens(o);
  EXPECT_EQ(read_documents(dir_ / "out", Split::kTrain), (Documents{{1, kEos}}));
  EXPECT_EQ(read_documents(dir_ / "out", Split::kValid), (Documents{{2, kEos}}));
}

TEST_F(Import, KnownTokenizerComesAlong) {
  ImportOptions o = options("numpy", {put_file("a", stored<uint16_t>({256, 'h', 'i', 257}))});
  o.tokenizer = "byte";
  o.vocab_size = 0, o.eos = -1;
  import_tokens(o);
  EXPECT_EQ(dataset_tokenizer(DatasetReader(dir_ / "out"))
                ->decode(std::vector<uint32_t>{256, 'h', 'i', 257}),
            "hi");
}

TEST_F(Import, OneDocumentLargerThanMemoryIsImported) {
  // 64 MB of tokens without a mark in between, in a process whose memory may grow by 48 MiB.
  const std::string path = dir_ / "big";
  {
    File file(path, "wb");
    const std::string part = stored<uint16_t>(std::vector<uint32_t>(1 << 20, 5));
    for (int i = 0; i < 32; ++i) file.write(part);
    file.close();
  }
  ImportOptions o = options("numpy", {path});
  o.eos = -1;
  const pid_t child = ::fork();
  if (child == 0) {
    int64_t pages = 0;
    if (std::FILE* statm = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(statm, "%ld", &pages) != 1) ::_exit(3);
      std::fclose(statm);
    }
    const auto limit = static_cast<rlim_t>(pages * ::getpagesize() + (48 << 20));
    const rlimit memory{limit, limit};
    ::setrlimit(RLIMIT_AS, &memory);
    try {
      import_tokens(o);
      ::_exit(0);
    } catch (const std::exception& problem) {
      std::fprintf(stderr, "child: %s\n", problem.what());
      ::_exit(1);
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(DatasetReader(dir_ / "out").summary(Split::kTrain).n_documents, 1);
}

// ---- refused

TEST_F(Import, DamagedLlmcFilesAreRefused) {
  const std::string tokens = stored<uint16_t>({1, 2, kEos});
  const auto message = [&](const std::string& bytes) {
    return error_of(options("llmc", {put_file("a", bytes)}));
  };
  const std::string a = dir_ / "a";
  EXPECT_EQ(message(""), a + ": file is 0 bytes, the header of llm.c's format alone has 1024");
  EXPECT_EQ(message(llmc_file(20240520, 1, 3, tokens).substr(0, 1029)),
            a + ": the header says 3 tokens of uint16, that is 1030 bytes, but the file is 1029 "
                "bytes: cut or damaged");
  EXPECT_EQ(message(llmc_file(20240520, 1, -3, tokens)),
            a + ": the header says -3 tokens of uint16, that is 1018 bytes, but the file is 1030 "
                "bytes: cut or damaged");
  EXPECT_EQ(message(llmc_file(20240520, 2, 3, tokens)),
            a + ": version 2 of llm.c's format with magic 20240520 is unknown, 1 is read");
  EXPECT_EQ(message(llmc_file(7, 1, 3, tokens)),
            a + ": begins with 7, llm.c's format with 20240520 (GPT-2) or 20240801 (Llama 3)");
  EXPECT_EQ(message(llmc_file(20240520, 1, 3, stored<uint16_t>({1, 300, kEos}))),
            a + ": token 300 at position 1 is not in the vocabulary of 300 ids; is the type of the "
                "tokens right, and "
                "the vocabulary?");
  EXPECT_EQ(error_of(options("llmc", {dir_ / "none"})),
            dir_ / "none: cannot open: No such file or directory");
}

TEST_F(Import, DamagedNumpyFilesAreRefused) {
  const std::string a = put_file("a", stored<uint16_t>({1, 2, kEos}) + "x");
  EXPECT_EQ(error_of(options("numpy", {a})),
            a + ": 7 bytes are not a whole number of uint16: cut, or of another type");
  put_file("a", std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_EQ(
      error_of(options("numpy", {a})),
      a + ": is a .npy file, with a header; write the ids alone: numpy.load(...).tofile(...)");
  put_file("a", stored<int32_t>({1, 0xffffffff}));
  ImportOptions o = options("numpy", {a});
  o.dtype = "int32";
  EXPECT_EQ(
      error_of(o),
      a + ": token -1 at position 1 is not in the vocabulary of 300 ids; is the type of the tokens "
          "right, and the vocabulary?");
  o.dtype = "float32";
  EXPECT_EQ(error_of(o), a + ": tokens of type 'float32' are not read");
  put_file("a", "");
  EXPECT_EQ(error_of(options("numpy", {a})),
            a + ": EOS 299 never occurs, so documents cannot be told apart; give "
                "another --eos, or none for one document per file");
  o = options("numpy", {a});
  o.eos = -1;
  EXPECT_EQ(error_of(o), dir_ / "out: no document was found, so there is nothing to write");
}

TEST_F(Import, MegatronPairTruncatedAnywhereIsRefused) {
  const Documents documents = random_documents(5, 1, 20, 250, 3);
  const std::string stem = put_megatron<uint16_t>("m", documents, 8, 8);
  for (const char* suffix : {".idx", ".bin"}) {
    const std::string good = read_file(stem + suffix);
    for (size_t length = 0; length < good.size(); ++length) {
      put_file(std::string("m") + suffix, good.substr(0, length));
      const std::string message = error_of(options("megatron", {stem}));
      EXPECT_EQ(
          message.rfind(
              stem + (std::string(suffix) == ".idx" || length % 2 == 0 ? ".idx: " : ".bin: "), 0),
          0)
          << suffix << " of " << length << " bytes: " << message;
    }
    put_file(std::string("m") + suffix, good);
  }
  EXPECT_EQ(error_of(options("megatron", {dir_ / "none"})),
            dir_ / "none.idx: cannot open: No such file or directory");
}

TEST_F(Import, MegatronIndexWithAWrongFieldIsRefused) {
  const std::string stem = put_megatron<uint16_t>("m", {{1, 2, 3}, {4, 5}}, 8, 8);
  const std::string good = read_file(stem + ".idx");
  const auto with = [&](size_t at, auto value) {
    std::string bad = good;
    std::memcpy(bad.data() + at, &value, sizeof value);
    put_file("m.idx", bad);
    return error_of(options("megatron", {stem}));
  };
  const std::string idx = stem + ".idx: ";
  EXPECT_EQ(with(0, 'X'), idx + "is not an index of Megatron-LM: it does not begin with MMIDIDX");
  EXPECT_EQ(with(9, uint64_t{2}), idx + "version 2 of Megatron-LM's index is unknown, 1 is read");
  EXPECT_EQ(with(17, uint8_t{7}), idx + "type code 7 is not one of integers");
  EXPECT_EQ(with(18, uint64_t{1} << 62), idx +
                                             "4611686018427387904 sequences and 3 document entries "
                                             "do not fit into 82 bytes: cut or damaged");
  EXPECT_EQ(with(18, uint64_t{1}), idx +
                                       "1 sequences and 3 document entries take 70 bytes, but the "
                                       "file is 82 bytes: cut or damaged");
  EXPECT_EQ(
      with(34, int32_t{-1}),
      idx + "sequence 0 has -1 tokens from byte 0, the .bin is 10 bytes: cut, or of another index");
  EXPECT_EQ(with(42, int64_t{INT64_MAX - 1}),
            idx +
                "sequence 0 has 3 tokens from byte 9223372036854775806, the .bin is 10 bytes: cut, "
                "or of another "
                "index");
  EXPECT_EQ(
      with(42, int64_t{1}),
      idx + "sequence 0 has 3 tokens from byte 1, the .bin is 10 bytes: cut, or of another index");
  EXPECT_EQ(with(58, int64_t{1}), idx + "the first document does not begin at sequence 0");
  EXPECT_EQ(with(66, int64_t{9}), idx + "document 0 ends at sequence 9 of 2, after 0");
  EXPECT_EQ(with(74, int64_t{1}), idx + "its documents hold 1 of 2 sequences");
}

TEST_F(Import, ImpossibleOptionsAreRefused) {
  const std::string a = put_file("a", stored<uint16_t>({1, 2, kEos}));
  const auto with = [&](const std::function<void(ImportOptions&)>& change) {
    ImportOptions o = options("numpy", {a});
    change(o);
    return error_of(o);
  };
  EXPECT_EQ(
      with([](ImportOptions& o) { o.vocab_size = 0; }),
      "--vocab-size: the number of ids of tokenizer 'gpt2' is needed, ceiling does not know it");
  EXPECT_EQ(with([](ImportOptions& o) { o.eos = 300; }),
            dir_ / "out: eos is 300, must be below the vocabulary size 300, or -1 for none");
  EXPECT_EQ(with([](ImportOptions& o) { o.tokenizer = "byte"; }),
            "--vocab-size: is 300, but tokenizer byte has 258");
  EXPECT_EQ(with([](ImportOptions& o) { o.tokenizer = "x/none.model"; }),
            "x/none.model: there is no such tokenizer file");
  EXPECT_EQ(with([](ImportOptions& o) { o.dtype = ""; }),
            "--dtype: the file does not tell the type of its ids; say uint16, uint32 or int32");
  EXPECT_EQ(with([](ImportOptions& o) { o.format = "llmc"; }),
            "--dtype: llmc files tell the type of their ids themselves");
  EXPECT_EQ(with([](ImportOptions& o) { o.format = "mds", o.dtype = ""; }),
            "import: format 'mds' is unknown; llmc, megatron and numpy are read");
  EXPECT_EQ(with([](ImportOptions& o) { o.valid_share = 1; }),
            "--valid-share: 1 is out of range, must be at least 0 and below 1");
  EXPECT_EQ(with([](ImportOptions& o) { o.valid_share = 0.001; }),
            "--valid-share: 0.001 of 1 documents leaves none for validation; raise it, or name "
            "files for validation "
            "with --valid-files");
  EXPECT_EQ(with([](ImportOptions& o) { o.files.clear(); }), "import: name at least one file");
}

}  // namespace
}  // namespace ceiling
