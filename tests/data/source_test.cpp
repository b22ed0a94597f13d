#include "data/source.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "base/files.h"
#include "data/named_source.h"
#include "data/prepare.h"
#include "data/shard.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

class Source : public ::testing::Test {
 protected:
  Source() {
    std::string text;
    for (int i = 0; i < 400; ++i) text += fmt::format("paragraph {} of a text\n\n", i);
    write_file_atomic(dir_ / "book, 1.txt", text);
    request_ = {.source = dir_ / "book, 1.txt",
                .tokenizer = "byte",
                .path = (dir_ / "data/") + "set/",
                .valid_share = 0.1,
                .document_separator = "\\n\\n",
                .min_split_tokens = 65};
  }
  static std::string error_of(const SourceRequest& request) {
    try {
      ensure_prepared(request);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  std::string fingerprint() { return DatasetReader(dir_ / "data/set").fingerprint(); }
  std::vector<std::string> beside_the_dataset() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_ / "data"))
      names.push_back(entry.path().filename());
    return names;
  }
  TempDir dir_;
  SourceRequest request_;
};

TEST_F(Source, IsPreparedOnceAndReused) {
  ensure_prepared(request_);
  const auto made = fs::last_write_time(dir_ / "data/set/manifest.json");
  EXPECT_EQ(DatasetReader(dir_ / "data/set").summary(Split::kTrain).n_documents +
                DatasetReader(dir_ / "data/set").summary(Split::kValid).n_documents,
            400);
  ensure_prepared(request_);
  request_.tokenizer = "";
  ensure_prepared(request_);
  EXPECT_EQ(fs::last_write_time(dir_ / "data/set/manifest.json"), made);
  EXPECT_EQ(beside_the_dataset(), std::vector<std::string>{"set"});
}

TEST_F(Source, ADifferenceIsAnErrorThatNamesIt) {
  ensure_prepared(request_);
  const std::string start = (dir_ / "data/set") + ": was prepared from something else: ";
  const std::string advice =
      "; name another data.path, or remove the folder to have it prepared again";
  SourceRequest other = request_;
  other.valid_share = 0.2;
  other.tokenizer = "spm:300";
  EXPECT_EQ(error_of(other),
            start +
                "data.tokenizer was \"byte\", is \"spm:300\"; data.valid_share was 0.1, is 0.2" +
                advice);
  other = request_;
  other.document_separator = "";
  EXPECT_EQ(error_of(other), start + "data.document_separator was \"\\n\\n\", is \"\"" + advice);
  const std::string file = dir_ / "book, 1.txt";
  const auto size = fs::file_size(file);
  write_file_atomic(file, read_file(file) + "more");
  EXPECT_EQ(error_of(request_),
            start + fmt::format("file {} had {} bytes, has {}", file, size, size + 4) + advice);
}

TEST_F(Source, TheSameTextElsewhereIsTheSameSource) {
  ensure_prepared(request_);
  fs::rename(dir_ / "book, 1.txt", dir_ / "moved.txt");
  request_.source = dir_ / "moved.txt";
  EXPECT_EQ(error_of(request_), "no error");
  std::string text = read_file(dir_ / "moved.txt");
  text[0] = 'P';
  write_file_atomic(dir_ / "moved.txt", text);
  EXPECT_EQ(error_of(request_),
            (dir_ / "data/set") + ": was prepared from something else: file " +
                (dir_ / "book, 1.txt") + " is gone; file " + (dir_ / "moved.txt") +
                " is new; data.source was \"" + (dir_ / "book, 1.txt") + "\", is \"" +
                (dir_ / "moved.txt") +
                "\"; name another data.path, or remove the folder to have it prepared again");
}

TEST_F(Source, TheSameModelElsewhereIsTheSameTokenizer) {
  SourceRequest first = request_;
  first.tokenizer = "spm:270";
  first.path = dir_ / "first";
  ensure_prepared(first);
  fs::copy_file(dir_ / "first/tokenizer.model", dir_ / "a.model");
  request_.tokenizer = dir_ / "a.model";
  ensure_prepared(request_);
  EXPECT_EQ(fingerprint(), DatasetReader(dir_ / "first").fingerprint());
  fs::rename(dir_ / "a.model", dir_ / "b.model");
  request_.tokenizer = dir_ / "b.model";
  EXPECT_EQ(error_of(request_), "no error");
}

TEST_F(Source, ADatasetWhoseTextIsGoneIsStillUsed) {
  ensure_prepared(request_);
  fs::remove(dir_ / "book, 1.txt");
  EXPECT_EQ(error_of(request_), "no error");
}

TEST_F(Source, ADatasetMadeOtherwiseIsNotTakenForIt) {
  prepare(*file_source({request_.source}, {}),
          {.tokenizer = "byte", .path = dir_ / "data/set", .valid_share = 0}, nullptr);
  EXPECT_EQ(
      error_of(request_),
      (dir_ / "data/set") +
          ": exists, but was not prepared from a data.source; leave data.source out to train on "
          "it, or name another data.path");
}

TEST_F(Source, AFailureLeavesNothing) {
  request_.min_split_tokens = 1'000'000;
  EXPECT_NE(error_of(request_), "no error");
  EXPECT_TRUE(beside_the_dataset().empty());
}

TEST_F(Source, AMissingFileSaysWhichSourcesThereAre) {
  request_.source = dir_ / "none.txt";
  EXPECT_EQ(error_of(request_),
            "data.source: " + (dir_ / "none.txt") +
                ": there is no such file or folder; or is it bible-kjv or dict-gcide?");
}

TEST_F(Source, ProcessesThatStartAtOnceShareOneDataset) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(error_of(request_) == "no error" ? 0 : 1);
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(beside_the_dataset(), std::vector<std::string>{"set"});
  const std::string together = fingerprint();
  fs::remove_all(dir_ / "data/set");
  ensure_prepared(request_);
  EXPECT_EQ(fingerprint(), together);
}

TEST_F(Source, AMissingPackageIsNamed) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nonexistent", 1);  // neither bible nor apt-get
  std::string message;
  try {
    open_source("bible-kjv", {});
  } catch (const Error& error) {
    message = error.what();
  }
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(message,
            "data.source bible-kjv: the program `bible` is missing and could not be installed; "
            "install the package "
            "bible-kjv (Debian, Ubuntu: sudo apt-get install bible-kjv), or set data.source to any "
            "text or JSONL file, "
            "for example data.source=book.txt 'data.document_separator=\\n\\n\\n'");
}

TEST(NamedSource, ChaptersAreProseUnderTheirHeading) {
  EXPECT_EQ(bible_chapters("\nGenesis 1\n\n  1 In the beginning.\n  2 And the earth.\n\nPsalms "
                           "119\n\n  1 Blessed.\n"),
            (std::vector<std::string>{"Genesis 1\n\nIn the beginning. And the earth.\n",
                                      "Psalms 119\n\nBlessed.\n"}));
}

TEST(NamedSource, EntriesOfOneWordAreOneDocument) {
  EXPECT_EQ(dictionary_words(
                "\n00-database-url\n   ftp://x\n\n\n"
                "Coagulate \\Co*ag\"u*late\\, a. [L.]\n   See {Cogent}.  \n   [1913 Webster]\n\n"
                "Coagulate \\Co*ag\"u*late\\, v. t.\n   To change.\n   [1913 Webster]\n\n   Syn: "
                "To clot.\n"
                "        [WordNet 1.5 +PJC]\n\n"
                "Coda \\Co\"da\\, n. [It.]\n   The end \xff.\n"),
            (std::vector<std::string>{
                "Coagulate \\Co*ag\"u*late\\, a. [L.]\n   See Cogent.\n\n"
                "Coagulate \\Co*ag\"u*late\\, v. t.\n   To change.\n\n   Syn: To clot.\n",
                "Coda \\Co\"da\\, n. [It.]\n   The end \xEF\xBF\xBD.\n"}));
}

}  // namespace
}  // namespace ceiling
