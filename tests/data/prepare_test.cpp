#include "data/prepare.h"

#include <gtest/gtest.h>

#include <csignal>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/random.h"
#include "base/stop.h"
#include "base/version.h"
#include "data/tokenizer.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

class Prepare : public ::testing::Test {
 protected:
  static std::string word(uint64_t number) {
    std::string letters;
    for (; number > 0; number /= 7)
      letters += std::array{"ta", "é", "ri", "mo", "s", "lun", "ke"}[number % 7];
    return letters;
  }
  // `n` documents of made-up words; every 50th stands twice.
  std::vector<std::string> corpus(int n) {
    const RandomStream random(3, "test/prepare");
    std::vector<std::string> documents;
    uint64_t draw = 0;
    for (int i = 0; i < n; ++i) {
      std::string text = fmt::format("document {}", i - (i % 50 == 49 ? 1 : 0));
      if (i % 50 == 49) {
        documents.push_back(documents.back());
        continue;
      }
      for (uint64_t left = random.bits(draw++) % 300; left > 0; --left)
        text += " " + word(random.bits(draw++) % 500);
      documents.push_back(text);
    }
    return documents;
  }
  std::string put(const std::vector<std::string>& documents, const std::string& name = "c.jsonl") {
    std::string lines;
    for (const std::string& text : documents)
      lines += nlohmann::json({{"text", text}}).dump() + "\n";
    write_file_atomic(dir_ / name, lines);
    return dir_ / name;
  }
  std::string error_of(const std::string& input, PrepareOptions options) {
    options.path = dir_ / "failed";
    try {
      prepare(*file_source({input}, {}), options, nullptr);
    } catch (const Error& error) {
      EXPECT_EQ(files_left(), 1);  // the input
      return error.what();
    }
    return "no error";
  }
  int64_t files_left() {
    return std::distance(fs::directory_iterator(dir_.path()), fs::directory_iterator());
  }
  std::vector<std::string> decoded(const std::string& path, Split split) {
    DatasetReader reader(path);
    const auto tokenizer = dataset_tokenizer(reader);
    std::vector<uint32_t> tokens(static_cast<size_t>(reader.summary(split).n_tokens));
    reader.read_tokens(split, 0, tokens);
    auto starts = reader.document_starts(split, 0, static_cast<int64_t>(tokens.size()));
    starts.push_back(static_cast<int64_t>(tokens.size()));
    std::vector<std::string> texts;
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      const auto first = static_cast<size_t>(starts[i]), last = static_cast<size_t>(starts[i + 1]);
      EXPECT_EQ(tokens[first], static_cast<uint32_t>(tokenizer->info().bos));
      EXPECT_EQ(tokens[last - 1], static_cast<uint32_t>(tokenizer->info().eos));
      texts.push_back(tokenizer->decode(std::span(tokens).subspan(first, last - first)));
    }
    return texts;
  }
  TempDir dir_;
};

TEST_F(Prepare, TheDatasetIsTheSameForAnyNumberOfThreads) {
  const auto input = put(corpus(3000));
  for (const std::string tokenizer : {"byte", "spm:400"}) {
    std::vector<std::string> fingerprints;
    for (const int threads : {1, 4}) {
      const std::string path = dir_ / fmt::format("{}-{}", tokenizer, threads);
      prepare(*file_source({input}, {}),
              {.tokenizer = tokenizer,
               .path = path,
               .valid_share = 0.1,
               .threads = threads,
               .shard_tokens = 200'000},
              nullptr);
      DatasetReader reader(path);
      reader.verify();
      fingerprints.push_back(reader.fingerprint());
    }
    EXPECT_EQ(fingerprints[0], fingerprints[1]) << tokenizer;
  }
}

TEST_F(Prepare, EveryDocumentComesBackInOrderOnTheSideOfItsHash) {
  const auto documents = corpus(1000);
  const auto input = put(documents);
  std::array<std::vector<std::string>, 2> expected;
  for (const std::string& text : documents) {
    const double share = std::stoul(sha256_hex(text).substr(0, 8), nullptr, 16) / 4294967296.0;
    expected[share >= 0.8].push_back(text);
  }
  for (const std::string tokenizer : {"byte", "spm:300"}) {
    const std::string path = dir_ / tokenizer;
    const auto summary =
        prepare(*file_source({input}, {}),
                {.tokenizer = tokenizer, .path = path, .valid_share = 0.2}, nullptr);
    EXPECT_EQ(decoded(path, Split::kTrain), expected[0]);
    EXPECT_EQ(decoded(path, Split::kValid), expected[1]);
    int64_t n_bytes = 0;
    for (const std::string& text : documents) n_bytes += static_cast<int64_t>(text.size());
    EXPECT_EQ(summary.train.n_text_bytes + summary.valid.n_text_bytes, n_bytes);
  }
}

TEST_F(Prepare, EmptyAndBlankDocumentsAreDroppedAndCounted) {
  const auto input = put({"", "one", " ", "\n\t\r", "", "\xC2\xA0", "two"});
  const auto summary =
      prepare(*file_source({input}, {}),
              {.tokenizer = "byte", .path = dir_ / "d", .valid_share = 0}, nullptr);
  EXPECT_EQ(summary.n_read, 7);
  EXPECT_EQ(summary.n_empty, 2);
  EXPECT_EQ(summary.n_blank, 2);
  EXPECT_EQ(summary.train.n_documents, 3);
  EXPECT_EQ(decoded(dir_ / "d", Split::kTrain),
            (std::vector<std::string>{"one", "\xC2\xA0", "two"}));
}

TEST_F(Prepare, TheRecordTellsInputsAndVersion) {
  const auto input = put({"one", "two"});
  prepare(*file_source({input}, {}),
          {.tokenizer = "byte", .path = dir_ / "d", .valid_share = 0, .bos = false},
          {{"asked", 1}});
  const DatasetReader reader(dir_ / "d");
  const auto& record = reader.manifest().at("provenance");
  EXPECT_EQ(record.at("ceiling"), kVersion);
  EXPECT_EQ(record.at("request"), (nlohmann::json{{"asked", 1}}));
  EXPECT_EQ(
      record.at("source").at("files")[0],
      (nlohmann::json{
          {"path", input}, {"size_bytes", fs::file_size(input)}, {"sha256", sha256_file(input)}}));
  EXPECT_EQ(reader.summary(Split::kTrain).n_tokens, 8);  // two times three letters and EOS
}

TEST_F(Prepare, AnExistingModelIsUsed) {
  const auto input = put(corpus(300));
  prepare(*file_source({input}, {}), {.tokenizer = "spm:300", .path = dir_ / "a", .valid_share = 0},
          nullptr);
  const std::string model = dir_ / "new, text=1.model";
  fs::copy_file((dir_ / "a") + "/tokenizer.model", model);
  prepare(*file_source({input}, {}), {.tokenizer = model, .path = dir_ / "b", .valid_share = 0},
          nullptr);
  EXPECT_EQ(decoded(dir_ / "b", Split::kTrain), decoded(dir_ / "a", Split::kTrain));
}

TEST_F(Prepare, TooLittleTextIsRefusedAndNothingIsLeft) {
  const auto refused = [&](const std::vector<std::string>& documents, double valid_share,
                           int64_t least) {
    return error_of(put(documents),
                    {.tokenizer = "byte", .valid_share = valid_share, .min_split_tokens = least});
  };
  const std::string path = dir_ / "failed";
  EXPECT_EQ(refused({}, 0, 2), path +
                                   ": the train split would have 0 tokens in 0 documents, at least "
                                   "2 are needed (read from 1 file (0 "
                                   "B): 0 documents, of which 0 empty and 0 of white space only "
                                   "were dropped); use more text");
  EXPECT_EQ(error_of(put({"", " "}), {.tokenizer = "spm:300", .valid_share = 0}),
            path +
                ": the train split would have 0 tokens in 0 documents, at least 2 are needed (read "
                "from 1 file (25 "
                "B): 2 documents, of which 1 empty and 1 of white space only were dropped); use "
                "more text");
  EXPECT_EQ(refused({"", " ", "\n"}, 0.1, 2),
            path +
                ": the train split would have 0 tokens in 0 documents, at least 2 are needed (read "
                "from 1 file (39 "
                "B): 3 documents, of which 1 empty and 2 of white space only were dropped); use "
                "more text");
  EXPECT_EQ(refused({"quiet river, green lamp, seven stones"}, 0, 65),
            path +
                ": the train split would have 39 tokens in 1 document, at least 65 are needed "
                "(read from 1 file (49 "
                "B): 1 document, of which 0 empty and 0 of white space only were dropped); use "
                "more text");
  EXPECT_EQ(refused({"quiet river, green lamp, seven stones"}, 0.1, 2),
            path +
                ": the valid split would have 0 tokens in 0 documents, at least 2 are needed (read "
                "from 1 file (49 "
                "B): 1 document, of which 0 empty and 0 of white space only were dropped); use "
                "more text, split it "
                "into documents (document_separator), or set valid_share 0");
  EXPECT_EQ(refused({"quiet river, green lamp, seven stones"}, 0.9, 2),
            path +
                ": the train split would have 0 tokens in 0 documents, at least 2 are needed (read "
                "from 1 file (49 "
                "B): 1 document, of which 0 empty and 0 of white space only were dropped); 1 "
                "document fell into the validation split: use more text, or set valid_share 0 (a "
                "text that was divided by the same rule before lies wholly on one side)");
}

TEST_F(Prepare, AShareThatWasNotAskedForMayGetNoDocument) {
  const auto input = put({"quiet river, green lamp, seven stones"});
  const PrepareSummary summary =
      prepare(*file_source({input}, {}),
              {.tokenizer = "byte", .path = dir_ / "d", .valid_may_be_empty = true}, nullptr);
  EXPECT_EQ(summary.train.n_documents, 1);
  EXPECT_EQ(summary.valid.n_documents, 0);
}

TEST_F(Prepare, WrongTokenizersAreErrors) {
  const auto input = put({"one", "two"});
  const auto message = [&](const std::string& tokenizer) {
    return error_of(input, {.tokenizer = tokenizer, .valid_share = 0});
  };
  EXPECT_EQ(
      message("bytes"),
      "tokenizer bytes: write byte, spm:VOCAB such as spm:32000, or the path of a .model file");
  EXPECT_EQ(message("spm:many"),
            "tokenizer spm:many: a vocabulary is a number up to 1048576, as in spm:32000");
  EXPECT_TRUE(message(dir_ / "none.model").starts_with((dir_ / "none.model") + ": "))
      << message(dir_ / "none.model");
}

TEST_F(Prepare, ADamagedLineInTheMiddleLeavesNothing) {
  auto documents = corpus(2000);
  const auto input = put(documents);
  write_file_atomic(input, read_file(input) + "{\"text\": 1}\n");
  for (const std::string tokenizer : {"byte", "spm:300"})
    EXPECT_EQ(error_of(input, {.tokenizer = tokenizer, .valid_share = 0}),
              input + ":2001: the value of 'text' is no string (byte 10 of the line)");
}

TEST_F(Prepare, AnExistingDatasetIsKeptUnlessItIsToBeReplaced) {
  const auto input = put({"one", "two"});
  PrepareOptions options{.tokenizer = "byte", .path = dir_ / "d", .valid_share = 0};
  prepare(*file_source({input}, {}), options, nullptr);
  EXPECT_THROW(prepare(*file_source({input}, {}), options, nullptr), Error);
  options.replace = true;
  put({"three"});
  prepare(*file_source({input}, {}), options, nullptr);
  EXPECT_EQ(decoded(dir_ / "d", Split::kTrain), std::vector<std::string>{"three"});
}

TEST_F(Prepare, AStopSignalLeavesNothing) {
  const auto input = put(corpus(2000));
  stop::install_handlers();
  std::raise(SIGUSR1);
  EXPECT_THROW(
      prepare(*file_source({input}, {}), {.tokenizer = "byte", .path = dir_ / "d"}, nullptr),
      Interrupted);
  EXPECT_THROW(
      prepare(*file_source({input}, {}), {.tokenizer = "spm:300", .path = dir_ / "d"}, nullptr),
      Interrupted);
  stop::reset();
  EXPECT_EQ(files_left(), 1);
}

}  // namespace
}  // namespace ceiling
