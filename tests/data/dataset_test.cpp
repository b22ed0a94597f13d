#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/random.h"
#include "data/manifest.h"
#include "data/raw_array.h"
#include "data/shard.h"
#include "tests/support/temp_dir.h"
#include "tests/support/token_sets.h"

namespace ceiling {
namespace {

using Json = nlohmann::json;

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Everything a reader can get out of a dataset.
struct Content {
  std::vector<uint32_t> tokens;
  std::vector<int64_t> starts;
  bool operator==(const Content&) const = default;
};
Content read_all(const std::string& path, Split split = Split::kTrain) {
  DatasetReader reader(path);
  Content content;
  const int64_t n = reader.summary(split).n_tokens;
  content.tokens.resize(static_cast<size_t>(n));
  reader.read_tokens(split, 0, content.tokens);
  content.starts = reader.document_starts(split, 0, n);
  return content;
}

Json read_manifest(const std::string& path) {
  return Json::parse(read_file(path + "/manifest.json"));
}
void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

// Changes the manifest, fingerprint included, as somebody who edits it by hand and means it.
void edit_manifest(const std::string& path, const std::function<void(Json&)>& edit) {
  Json json = read_manifest(path);
  edit(json);
  write_text(path + "/manifest.json", json.dump());
}

TEST(Dataset, WhatIsWrittenIsReadBack) {
  const TempDir dir;
  for (const int64_t vocab_size : {300, 65536, 65537, 200000}) {
    const std::string path = dir / std::to_string(vocab_size);
    const auto documents = random_documents(200, 1, 4000, vocab_size, /*seed=*/7);
    write_dataset(path, documents, vocab_size, {.shard_tokens = 50000});
    DatasetReader reader(path);
    const SplitSummary sum = reader.summary(Split::kTrain);
    EXPECT_EQ(sum.n_documents, 200);
    EXPECT_GT(sum.n_shards, 5);
    EXPECT_EQ(read_manifest(path)["dtype"], vocab_size <= 65536 ? "uint16" : "uint32");
    std::vector<uint32_t> stream;
    std::vector<int64_t> starts;
    for (const auto& document : documents) {
      starts.push_back(static_cast<int64_t>(stream.size()));
      stream.insert(stream.end(), document.begin(), document.end());
    }
    const Content content = read_all(path);
    EXPECT_EQ(content.tokens, stream);
    EXPECT_EQ(content.starts, starts);
    reader.verify();
    // Windows over shard ends, in any order.
    const RandomStream random(3, "windows");
    for (uint64_t i = 0; i < 200; ++i) {
      const auto first = static_cast<int64_t>(random.bits(2 * i) % stream.size());
      const auto n = std::min<int64_t>(static_cast<int64_t>(random.bits(2 * i + 1) % 20000),
                                       static_cast<int64_t>(stream.size()) - first);
      std::vector<uint32_t> window(static_cast<size_t>(n));
      reader.read_tokens(Split::kTrain, first, window);
      EXPECT_TRUE(std::equal(window.begin(), window.end(), stream.begin() + first));
      const auto low = std::lower_bound(starts.begin(), starts.end(), first);
      const auto high = std::lower_bound(starts.begin(), starts.end(), first + n);
      EXPECT_EQ(reader.document_starts(Split::kTrain, first, first + n),
                std::vector<int64_t>(low, high));
    }
  }
}

TEST(Dataset, SplitsAndSummaryAndExtraFilesAgree) {
  const TempDir dir;
  const std::string path = dir / "d";
  DatasetWriter writer(path, test_tokenizer(300), {});
  writer.add_document(Split::kTrain, std::vector<uint32_t>{1, 2, 3}, 30);
  writer.add_document(Split::kValid, std::vector<uint32_t>{4, 5}, 20);
  writer.add_file("tokenizer.model", "model bytes");
  EXPECT_FALSE(fs::exists(path)) << "nothing stands under the name before commit";
  writer.commit({{"source", "a test"}});
  DatasetReader reader(path);
  EXPECT_EQ(reader.tokenizer(), test_tokenizer(300));
  EXPECT_EQ(reader.summary(Split::kTrain).n_text_bytes, 30);
  EXPECT_EQ(reader.summary(Split::kValid).n_tokens, 2);
  EXPECT_EQ(reader.manifest()["provenance"]["source"], "a test");
  EXPECT_EQ(read_file(path + "/tokenizer.model"), "model bytes");
  EXPECT_EQ(fs::file_size(path + "/train-00000.h5") < 20000, true)
      << "a small shard takes little room";
  write_text(path + "/tokenizer.model", "model bytez");
  EXPECT_NE(message_of([&] { DatasetReader(path).verify(); }).find("tokenizer.model: SHA-256 is"),
            std::string::npos);
}

TEST(Dataset, EqualContentGivesEqualBytes) {
  const TempDir dir;
  const auto documents = random_documents(50, 1, 500, 300, /*seed=*/1);
  write_dataset(dir / "a", documents, 300, {});
  write_dataset(dir / "b", documents, 300, {});
  EXPECT_EQ(sha256_file(dir / "a/train-00000.h5"), sha256_file(dir / "b/train-00000.h5"));
}

TEST(Dataset, PiecesOfADocumentAreOneDocument) {
  const TempDir dir;
  DatasetWriter writer(dir / "d", test_tokenizer(300), {});
  writer.append(Split::kTrain, std::vector<uint32_t>{1, 2});
  writer.append(Split::kTrain, std::vector<uint32_t>{3});
  writer.end_document(Split::kTrain, 0);
  writer.commit(Json::object());
  EXPECT_EQ(read_all(dir / "d"), (Content{{1, 2, 3}, {0}}));
}

TEST(Dataset, FolderThatExistsIsKeptUnlessReplaceIsAsked) {
  const TempDir dir;
  const std::string path = dir / "d";
  write_dataset(path, {{1, 2, 3}}, 300, {});
  EXPECT_EQ(message_of([&] { write_dataset(path, {{4}}, 300, {}); }),
            path + ": exists already; choose another folder or remove it");
  write_dataset(path, {{4, 5}}, 300, {.replace = true});
  EXPECT_EQ(read_all(path).tokens, (std::vector<uint32_t>{4, 5}));
  fs::create_directory(dir / "mine");
  EXPECT_EQ(message_of([&] { write_dataset(dir / "mine", {{4}}, 300, {.replace = true}); }),
            dir / "mine" + ": is not a dataset (it has no manifest.json), so it is not replaced");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 2)
      << "no temporary folder stays";
}

TEST(Dataset, WriterThatIsNotCommittedLeavesNothing) {
  const TempDir dir;
  {
    DatasetWriter writer(dir / "d", test_tokenizer(300), {});
    writer.add_document(Split::kTrain, std::vector<uint32_t>{1}, 0);
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Dataset, BadInputOfTheWriterIsRefused) {
  const TempDir dir;
  const std::string path = dir / "d";
  const auto refused = [&](const std::string& wanted,
                           const std::function<void(DatasetWriter&)>& use) {
    const std::string message = message_of([&] {
      DatasetWriter writer(path, test_tokenizer(300), {});
      use(writer);
    });
    EXPECT_NE(message.find(wanted), std::string::npos) << message;
    EXPECT_TRUE(fs::is_empty(dir.path()));
  };
  refused("token 300 in document 1 of split train is not below the vocabulary size 300",
          [](DatasetWriter& w) {
            w.add_document(Split::kTrain, std::vector<uint32_t>{299}, 0);
            w.add_document(Split::kTrain, std::vector<uint32_t>{1, 300}, 0);
          });
  refused("document 0 of split valid has no tokens",
          [](DatasetWriter& w) { w.add_document(Split::kValid, {}, 0); });
  refused("/d: no document was found, so there is nothing to write",
          [](DatasetWriter& w) { w.commit(Json::object()); });
  TokenizerInfo bad = test_tokenizer(300);
  bad.eos = 300;
  EXPECT_EQ(message_of([&] { DatasetWriter(path, bad, {}); }),
            path + ": eos is 300, must be below the vocabulary size 300, or -1 for none");
  bad.vocab_size = int64_t{1} << 40;
  EXPECT_EQ(message_of([&] { DatasetWriter(path, bad, {}); }),
            path + ": vocabulary size 1099511627776 is out of range, must be from 1 to 2147483647");
}

// Runs `action` in a child process, so that limits and users do not touch this one. 0 if it
// returned.
int in_child(const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      action();
      ::_exit(0);
    } catch (const Error& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    } catch (...) {
    }
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(Dataset, FullDiskIsOneErrorAndLeavesNothing) {
  const TempDir dir;
  const int result = in_child([&] {
    const rlimit limit{300000, 300000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::signal(SIGXFSZ, SIG_IGN);
    const std::string message = message_of(
        [&] { write_dataset(dir / "d", random_documents(1000, 1000, 1000, 300, 1), 300, {}); });
    if (message.find("/train-00000.h5: cannot write: ") == std::string::npos)
      throw Error("unexpected message: {}", message);
  });
  EXPECT_EQ(result, 0);
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Dataset, CorpusLargerThanMemoryIsWrittenAndRead) {
  const TempDir dir;
  // 256 MB of tokens under 200 MiB of address space, libraries included.
  constexpr int64_t kDocuments = 2048, kTokens = 65536;
  const int result = in_child([&] {
    const rlimit limit{200 << 20, 200 << 20};
    ::setrlimit(RLIMIT_AS, &limit);
    std::vector<uint32_t> document(kTokens);
    DatasetWriter writer(dir / "d", test_tokenizer(65536), {.shard_tokens = int64_t{1} << 25});
    for (int64_t d = 0; d < kDocuments; ++d) {
      for (int64_t t = 0; t < kTokens; ++t)
        document[static_cast<size_t>(t)] = static_cast<uint32_t>((d * 31 + t) % 65536);
      writer.add_document(Split::kTrain, document, 0);
    }
    writer.commit(Json::object());
    DatasetReader reader(dir / "d");
    reader.verify();
    std::vector<uint32_t> window(100);
    reader.read_tokens(Split::kTrain, kDocuments * kTokens - 100, window);
    if (window[99] != (2047 * 31 + 65535) % 65536) throw Error("last token is {}", window[99]);
  });
  EXPECT_EQ(result, 0);
}

TEST(Dataset, ManyShardsNeedFewDescriptors) {
  const TempDir dir;
  write_dataset(dir / "d", random_documents(400, 50, 60, 300, 5), 300, {.shard_tokens = 1});
  const Content whole = read_all(dir / "d");
  const int result = in_child([&] {
    const rlimit limit{100, 100};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    DatasetReader reader(dir / "d");
    if (reader.summary(Split::kTrain).n_shards != 400) throw Error("not 400 shards");
    const RandomStream random(1, "shards");
    for (uint64_t i = 0; i < 3000; ++i) {
      std::vector<uint32_t> token(1);
      const auto at = static_cast<int64_t>(random.bits(i) % whole.tokens.size());
      reader.read_tokens(Split::kTrain, at, token);
      if (token[0] != whole.tokens[static_cast<size_t>(at)]) throw Error("wrong token at {}", at);
    }
  });
  EXPECT_EQ(result, 0);
}

TEST(Dataset, LockedAndReadOnlyShardsAreReadAndNothingIsWrittenBesideThem) {
  const TempDir dir;
  const std::string path = dir / "d";
  write_dataset(path, {{1, 2, 3}}, 300, {});
  const std::string shard = path + "/train-00000.h5";
  const int lock = ::open(shard.c_str(), O_RDONLY);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  ::chmod(shard.c_str(), 0444);
  ::chmod(path.c_str(), 0555);
  ::chmod(dir.path().c_str(), 0755);  // for the ordinary user that root becomes
  const int result = in_child([&] {
    if (::getuid() == 0 && ::setuid(65534) != 0) throw Error("cannot become an ordinary user");
    DatasetReader(path).verify();
  });
  EXPECT_EQ(result, 0);
  EXPECT_EQ(std::distance(fs::directory_iterator(path), fs::directory_iterator()), 2);
  ::close(lock);
  ::chmod(path.c_str(), 0755);
}

// ---- damage

class DamagedDataset : public ::testing::Test {
 protected:
  DamagedDataset() {
    write_dataset(path_, random_documents(20, 10, 30, 300, 2), 300, {.shard_tokens = 200});
    shard_ = path_ + "/train-00001.h5";
  }
  std::string read_message() {
    return message_of([&] { read_all(path_); });
  }
  const TempDir dir_;
  const std::string path_ = dir_ / "d";
  std::string shard_;
};

TEST_F(DamagedDataset, MissingShardIsRejected) {
  fs::remove(shard_);
  EXPECT_EQ(read_message(),
            shard_ + ": cannot open the file that the manifest lists: No such file or directory");
}

TEST_F(DamagedDataset, ShardTruncatedToAnyLengthIsRejected) {
  const auto size = static_cast<int64_t>(fs::file_size(shard_));
  for (int64_t length = size - 1; length >= 0; length -= 97) {
    fs::resize_file(shard_, static_cast<uintmax_t>(length));
    EXPECT_EQ(
        read_message(),
        fmt::format("{}: file is {} bytes, the manifest says {}: truncated or changed; restore or "
                    "prepare it again",
                    shard_, length, size));
  }
}

TEST_F(DamagedDataset, TruncatedShardIsRejectedEvenIfTheManifestAgrees) {
  const auto size = static_cast<int64_t>(fs::file_size(shard_));
  for (int64_t length = size - 1; length > 0; length -= 211) {
    fs::resize_file(shard_, static_cast<uintmax_t>(length));
    edit_manifest(path_,
                  [&](Json& json) { json["splits"]["train"]["shards"][1]["size_bytes"] = length; });
    const std::string message = read_message();
    EXPECT_TRUE(message.rfind(shard_, 0) == 0 || message.rfind(path_ + "/manifest.json", 0) == 0)
        << message;
  }
}

TEST_F(DamagedDataset, EveryFlippedByteIsRejectedOrHarmless) {
  fs::remove_all(path_);
  write_dataset(path_, random_documents(20, 10, 30, 300, 2), 300, {});
  shard_ = path_ + "/train-00000.h5";
  const Content whole = read_all(path_);
  const std::string good = read_file(shard_);
  int64_t rejected = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << at % 8));
    write_text(shard_, bad);
    try {
      DatasetReader(path_).verify();
      ASSERT_EQ(read_all(path_), whole) << "byte " << at << " changed the content unnoticed";
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).rfind(shard_, 0), 0) << error.what();
      ++rejected;
    }
  }
  EXPECT_GT(rejected, 1000);
}

TEST_F(DamagedDataset, FlippedTokenIsFoundByTheFirstReadNotOnlyByVerify) {
  std::string bytes = read_file(shard_);
  const Content whole = read_all(path_);
  // The second shard's tokens as stored.
  const int64_t first = read_manifest(path_)["splits"]["train"]["shards"][0]["tokens"];
  const std::vector<uint16_t> stored(whole.tokens.begin() + first,
                                     whole.tokens.begin() + first + 100);
  const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(stored.data()), 200));
  ASSERT_NE(at, std::string::npos);
  bytes[at + 50] = static_cast<char>(bytes[at + 50] ^ 4);
  write_text(shard_, bytes);
  const std::string message = read_message();
  EXPECT_EQ(message.rfind(shard_ + ": checksum of tokens differs in elements 0 to ", 0), 0)
      << message;
}

TEST_F(DamagedDataset, GarbageOfTheRightSizeIsRejected) {
  write_text(shard_, std::string(fs::file_size(shard_), 'x'));
  EXPECT_EQ(read_message().rfind(shard_ + ": not a readable HDF5 file: ", 0), 0) << read_message();
}

TEST_F(DamagedDataset, ShardOfAnotherVocabularyIsRejected) {
  const std::string other = dir_ / "other";
  write_dataset(other, {{1, 2, 3}}, 301, {});
  write_dataset(dir_ / "same", {{1, 2, 3}}, 300, {});
  fs::copy_file(other + "/train-00000.h5", dir_ / "same/train-00000.h5",
                fs::copy_options::overwrite_existing);
  edit_manifest(dir_ / "same", [&](Json& json) {
    json["splits"]["train"]["shards"][0]["size_bytes"] = fs::file_size(other + "/train-00000.h5");
  });
  EXPECT_EQ(message_of([&] { read_all(dir_ / "same"); }),
            dir_ / "same/train-00000.h5: vocab_size is 301, the manifest says 300");
}

TEST_F(DamagedDataset, ManifestThatClaimsTooMuchIsRejected) {
  const std::string manifest = path_ + "/manifest.json";
  const std::string good = read_file(manifest);
  const auto rejected = [&](const std::string& wanted, const std::function<void(Json&)>& edit) {
    edit_manifest(path_, edit);
    EXPECT_EQ(read_message().rfind(manifest + wanted, 0), 0) << read_message();
    write_text(manifest, good);
  };
  const auto shard = [](Json& json) -> Json& { return json["splits"]["train"]["shards"][0]; };
  rejected(": splits.train.shards[0]: 1152921504606846976 tokens do not fit into a file of ",
           [&](Json& json) { shard(json)["tokens"] = int64_t{1} << 60; });
  rejected(": splits.train.shards[0]: 'tokens' is 18446744073709551615, an integer of at least 1",
           [&](Json& json) { shard(json)["tokens"] = UINT64_MAX; });
  rejected(": splits.train.shards[0]: 'tokens' is -5, an integer of at least 1",
           [&](Json& json) { shard(json)["tokens"] = -5; });
  rejected(": splits.train.shards[0]: 'tokens' is 1.5, an integer of at least 1",
           [&](Json& json) { shard(json)["tokens"] = 1.5; });
  rejected(": splits.train.shards[0]: 'file' is missing",
           [&](Json& json) { shard(json).erase("file"); });
  rejected(": splits.train.shards[0]: '../x.h5' is not the name of a file in this folder",
           [&](Json& json) { shard(json)["file"] = "../x.h5"; });
  rejected(": lists 'train-00000.h5' twice",
           [&](Json& json) { json["splits"]["train"]["shards"][1]["file"] = "train-00000.h5"; });
  rejected(": splits.train: 'tokens' is 7, its shards hold ",
           [&](Json& json) { json["splits"]["train"]["tokens"] = 7; });
  rejected(": format version 2 is unknown, this build reads version 1",
           [&](Json& json) { json["version"] = 2; });
  rejected(": format is 'parquet', 'ceiling-dataset' is needed",
           [&](Json& json) { json["format"] = "parquet"; });
  rejected(": dtype is 'uint8', a vocabulary of 300 is stored as 'uint16'",
           [&](Json& json) { json["dtype"] = "uint8"; });
  rejected(": the fingerprint does not fit its shards",
           [&](Json& json) { shard(json)["tokens_sha256"] = std::string(64, '0'); });
  write_text(manifest, good.substr(0, good.size() / 2));
  EXPECT_EQ(read_message().rfind(manifest + ": is not JSON: ", 0), 0) << read_message();
  write_text(manifest, "[1]");
  EXPECT_EQ(read_message(), manifest + ": is not an object");
  fs::remove(manifest);
  EXPECT_EQ(read_message(),
            path_ + ": is not a dataset: it has no manifest.json (prepare or import one)");
  EXPECT_EQ(message_of([&] { DatasetReader(dir_ / "none"); }),
            dir_ / "none: there is no such dataset folder");
}

TEST_F(DamagedDataset, HugeManifestCountsDoNotOverflow) {
  edit_manifest(path_, [&](Json& json) {
    Json& shards = json["splits"]["train"]["shards"];
    while (shards.size() < 4) shards.push_back(shards[0]);
    for (Json& shard : shards) {
      shard["file"] = "train-" + std::to_string(&shard - &shards[0]) + ".h5";
      shard["tokens"] = int64_t{1} << 61;
      shard["size_bytes"] = INT64_MAX;
    }
  });
  EXPECT_EQ(read_message(),
            path_ + "/manifest.json: splits.train: the counts of its shards overflow");
}

// A shard written by hand, in ways a writer of another program might.
class ForeignShard : public ::testing::Test {
 protected:
  // Replaces the only shard's `tokens` dataset by what `write` makes.
  std::string message_with(const std::function<void(hid_t file)>& write) {
    const TempDir dir;
    const std::string path = dir / "d", shard = path + "/train-00000.h5";
    write_dataset(path, {{1, 2, 3, 4}}, 300, {});
    {
      const auto lock = hdf5::lock();
      hdf5::Handle file = hdf5::open_file(shard, true);
      write(file);
      EXPECT_TRUE(file.close());
    }
    edit_manifest(path, [&](Json& json) {
      json["splits"]["train"]["shards"][0]["size_bytes"] = fs::file_size(shard);
    });
    std::string message = message_of([&] { content_ = read_all(path); });
    return message.substr(message.rfind('/') == std::string::npos ? 0 : message.find("train-"));
  }
  static void put_tokens(hid_t file, hid_t type, const std::vector<int32_t>& tokens,
                         int deflate = 0, int rank = 1) {
    H5Ldelete(file, "tokens", H5P_DEFAULT);
    const hsize_t size[2] = {tokens.size(), 1};
    const hdf5::Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    if (deflate > 0) {
      H5Pset_chunk(creation, 1, size);
      H5Pset_deflate(creation, static_cast<unsigned>(deflate));
    }
    const hdf5::Handle space(H5Screate_simple(rank, size, nullptr), H5Sclose);
    const hdf5::Handle dataset(
        H5Dcreate2(file, "tokens", type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose);
    H5Dwrite(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, tokens.data());
  }
  Content content_;
};

TEST_F(ForeignShard, ContiguousTokensAreRead) {
  EXPECT_EQ(message_with([](hid_t file) {
              put_tokens(file, H5T_STD_U16LE, {5, 6, 7, 8});
            }),
            "no error");
  EXPECT_EQ(content_.tokens, (std::vector<uint32_t>{5, 6, 7, 8}));
}

TEST_F(ForeignShard, TokenPastTheVocabularyIsRejected) {
  EXPECT_EQ(message_with([](hid_t file) {
              put_tokens(file, H5T_STD_U16LE, {5, 300, 7, 8});
            }),
            "train-00000.h5: token 300 at position 1 is not below the vocabulary size 300");
}

TEST_F(ForeignShard, TokensOfAnotherTypeAreRejectedNotConverted) {
  for (const hid_t type :
       {H5T_STD_I16LE, H5T_STD_U16BE, H5T_STD_U32LE, H5T_STD_U8LE, H5T_IEEE_F32LE})
    EXPECT_EQ(message_with([&](hid_t file) {
                put_tokens(file, type, {5, 6, 7, 8});
              }),
              "train-00000.h5: tokens is not stored as uint16, little endian");
}

TEST_F(ForeignShard, WrongShapesAndCompressionAreRejected) {
  EXPECT_EQ(message_with([](hid_t file) {
              put_tokens(file, H5T_STD_U16LE, {5, 6, 7});
            }),
            "train-00000.h5: tokens has 3 elements, the manifest says 4");
  EXPECT_EQ(message_with([](hid_t file) {
              put_tokens(file, H5T_STD_U16LE, {5, 6, 7, 8}, 0, 2);
            }),
            "train-00000.h5: tokens is not one-dimensional");
  EXPECT_EQ(message_with([](hid_t file) {
              put_tokens(file, H5T_STD_U16LE, {5, 6, 7, 8}, 4);
            }),
            "train-00000.h5: tokens uses HDF5 filter 1; only Fletcher32 is read: write it without "
            "compression");
  EXPECT_EQ(message_with([](hid_t file) {
              H5Ldelete(file, "tokens", H5P_DEFAULT);
            }).rfind("train-00000.h5: tokens is missing or damaged", 0),
            0);
}

TEST_F(ForeignShard, UnknownVersionAndWrongAttributesAreRejected) {
  const auto with_number = [&](const char* name, int64_t value) {
    return message_with([&](hid_t file) { hdf5::write_attribute(file, "shard", name, value); });
  };
  EXPECT_EQ(with_number("format_version", 9),
            "train-00000.h5: format version 9 is unknown, this build reads version 1");
  EXPECT_EQ(with_number("n_documents", 3), "train-00000.h5: n_documents is 3, the manifest says 1");
  EXPECT_EQ(with_number("tokenizer", 3), "train-00000.h5: attribute 'tokenizer' is not one text");
  EXPECT_EQ(message_with([](hid_t file) {
              hdf5::write_attribute(file, "shard", "tokenizer", std::string("gpt2"));
            }),
            "train-00000.h5: tokenizer is 'gpt2', the manifest says 'test'");
  EXPECT_EQ(message_with([](hid_t file) {
              H5Adelete(file, "eos");
            }).rfind("train-00000.h5: attribute 'eos' is missing or damaged", 0),
            0);
}

TEST(Fletcher32, EqualsTheSumInAShardAndNoticesEverySwap) {
  std::vector<uint8_t> bytes = {1, 2, 3, 4, 5, 6};
  const uint32_t sum = fletcher32(bytes);
  // By hand: words 0x0102, 0x0304, 0x0506; sums 0x090c and 0x0102*3 + 0x0304*2 + 0x0506.
  EXPECT_EQ(sum, 0x0e14090cu);
  std::swap(bytes[0], bytes[2]);
  EXPECT_NE(fletcher32(bytes), sum);
}

}  // namespace
}  // namespace ceiling
