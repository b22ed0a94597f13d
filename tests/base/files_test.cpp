#include "base/files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

size_t entries(const std::string& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

// The number of a process that has ended.
pid_t dead_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

TEST(FileTest, WhatIsWrittenIsRead) {
  const TempDir temp;
  const std::string bytes("a\0b\nc", 5);
  File out(temp / "x", "wb");
  out.write(bytes);
  out.sync();
  out.close();
  EXPECT_EQ(read_file(temp / "x"), bytes);
  File in(temp / "x", "rb");
  in.seek(3);
  char rest[10];
  EXPECT_EQ(in.read(rest, sizeof rest), 2u);
  EXPECT_EQ(in.read(rest, sizeof rest), 0u);
}

TEST(FileTest, FailuresNameThePathAndTheReason) {
  const TempDir temp;
  EXPECT_EQ(error_of([&] { read_file(temp / "none"); }),
            temp / "none" + ": cannot open: No such file or directory");
  EXPECT_EQ(error_of([&] { read_file(temp.path()); }),
            temp.path() + ": is a folder, a file is needed");
  write_file_atomic(temp / "x", "text");
  EXPECT_EQ(error_of([&] { File(temp / "x", "rb").write("y"); }),
            temp / "x" + ": cannot write 1 B: Bad file descriptor");
  EXPECT_EQ(error_of([&] { File(temp / "x", "rb").seek(-1); }),
            temp / "x" + ": cannot seek: Invalid argument");
}

TEST(FileTest, AFullDiskIsReportedByCloseNotSwallowed) {
  File full("/dev/full", "wb");
  full.write("text");  // buffered
  EXPECT_EQ(error_of([&] { full.close(); }), "/dev/full: cannot write: No space left on device");
}

TEST(WriteFileAtomicTest, ReplacesTheFileAndLeavesNothingElse) {
  const TempDir temp;
  write_file_atomic(temp / "x", "old");
  write_file_atomic(temp / "x", "new");
  EXPECT_EQ(read_file(temp / "x"), "new");
  EXPECT_EQ(entries(temp.path()), 1u);
}

TEST(WriteFileAtomicTest, AFailedWriteKeepsTheOldFile) {
  const TempDir temp;
  write_file_atomic(temp / "x", "old");
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  rlimit small = limit;
  small.rlim_cur = 1000;
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string error =
      error_of([&] { write_file_atomic(temp / "x", std::string(100'000, 'n')); });
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(error.find("cannot write 97.7 KiB: File too large"), std::string::npos) << error;
  EXPECT_EQ(read_file(temp / "x"), "old");
  EXPECT_EQ(entries(temp.path()), 1u);
}

TEST(WriteFileAtomicTest, AFolderInTheWayIsKeptAndNamed) {
  const TempDir temp;
  fs::create_directories(temp / "x/inner");
  const std::string error = error_of([&] { write_file_atomic(temp / "x", "text"); });
  EXPECT_EQ(error.find(temp / "x" + ": cannot rename to it from "), 0u) << error;
  EXPECT_TRUE(fs::exists(temp / "x/inner"));
  EXPECT_EQ(entries(temp.path()), 1u);
}

TEST(PendingFolderTest, AppearsWholeOnCommit) {
  const TempDir temp;
  PendingFolder folder(temp / "a/b/final");
  write_file_atomic(folder.path() + "/x", "text");
  fs::create_directory(folder.path() + "/inner");
  write_file_atomic(folder.path() + "/inner/y", "more");
  EXPECT_FALSE(fs::exists(temp / "a/b/final"));
  folder.commit();
  EXPECT_EQ(read_file(temp / "a/b/final/x"), "text");
  EXPECT_EQ(read_file(temp / "a/b/final/inner/y"), "more");
  EXPECT_EQ(entries(temp / "a/b"), 1u);
}

TEST(PendingFolderTest, WithoutCommitNothingStays) {
  const TempDir temp;
  {
    PendingFolder folder(temp / "final");
    write_file_atomic(folder.path() + "/x", "text");
  }
  EXPECT_EQ(entries(temp.path()), 0u);
}

TEST(PendingFolderTest, AnExistingFolderIsReplacedOnlyWhenAsked) {
  const TempDir temp;
  fs::create_directory(temp / "final");
  write_file_atomic(temp / "final/old", "");
  {
    PendingFolder folder(temp / "final/");  // with the slash that a shell's completion adds
    EXPECT_EQ(error_of([&] { folder.commit(); }), temp / "final" + ": exists already");
  }
  EXPECT_TRUE(fs::exists(temp / "final/old"));
  PendingFolder folder(temp / "final");
  write_file_atomic(folder.path() + "/new", "");
  folder.commit(/*replace=*/true);
  EXPECT_TRUE(fs::exists(temp / "final/new"));
  EXPECT_FALSE(fs::exists(temp / "final/old"));
  EXPECT_EQ(entries(temp.path()), 1u);
}

TEST(PendingFolderTest, LeftoversOfAKilledProcessGo) {
  const TempDir temp;
  const std::string leftover = temp / "final.tmp-" + std::to_string(dead_process());
  fs::create_directories(leftover + "/inner");
  const PendingFolder folder(temp / "final");
  EXPECT_FALSE(fs::exists(leftover));
}

TEST(PendingFolderTest, ALivingProcessKeepsItsFolder) {
  const TempDir temp;
  const std::string theirs = temp / "final.tmp-" + std::to_string(::getppid());
  const std::string init = temp / "final.tmp-1";  // lives; without root, a signal to it is refused
  fs::create_directory(theirs);
  fs::create_directory(init);
  const PendingFolder folder(temp / "final");
  EXPECT_TRUE(fs::exists(theirs));
  EXPECT_TRUE(fs::exists(init));
}

TEST(PendingFolderTest, OtherNamesAreLeftAlone) {
  const TempDir temp;
  const std::string dead = std::to_string(dead_process());
  for (const std::string& name :
       {"other.tmp-" + dead, "final-2.tmp-" + dead, std::string("final"), std::string("final.old")})
    fs::create_directory(temp / name);
  const PendingFolder folder(temp / "final");
  EXPECT_EQ(entries(temp.path()), 5u);
}

TEST(PendingFolderTest,
     TheFolderOfAnEarlierProcessWithThisNumberGoes) {  // process 1 of a container started again
  const TempDir temp;
  const std::string leftover = temp / "final.tmp-" + std::to_string(::getpid());
  fs::create_directory(leftover);
  write_file_atomic(leftover + "/stale", "");
  const PendingFolder folder(temp / "final");
  EXPECT_EQ(folder.path(), leftover);
  EXPECT_EQ(entries(leftover), 0u);
}

TEST(PendingFolderTest, AFileWhereAFolderIsNeededIsNamed) {
  const TempDir temp;
  write_file_atomic(temp / "file", "");
  EXPECT_EQ(error_of([&] { PendingFolder(temp / "file/final"); }),
            temp / "file" + ": cannot create the folder: Not a directory");
}

TEST(FilesTest, HomeIsExpandedOnlyAtTheStart) {
  const char* home = std::getenv("HOME");
  const std::string before = home ? home : "";
  ::setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(expand_home("~"), "/home/someone");
  EXPECT_EQ(expand_home("~/x"), "/home/someone/x");
  for (const char* path : {"", "x/~", "~other/x", "/~", "./~"}) EXPECT_EQ(expand_home(path), path);
  if (home) ::setenv("HOME", before.c_str(), 1);
}

TEST(FilesTest, FreeSpaceIsThatOfTheNearestParent) {
  const TempDir temp;
  EXPECT_GT(free_bytes(temp / "not/yet/there"), 0u);
  EXPECT_LT(free_bytes(temp / "not/yet/there"), UINT64_MAX);
}

TEST(FilesTest, AWritableFolderIsMadeAndLeftEmpty) {
  const TempDir temp;
  require_writable_folder(temp / "a/b", "run.dir");
  EXPECT_EQ(entries(temp / "a/b"), 0u);
}

TEST(FilesTest, AFolderThatCannotBeMadeIsNamed) {
  const TempDir temp;
  write_file_atomic(temp / "file", "");
  EXPECT_EQ(error_of([&] { require_writable_folder(temp / "file/x", "run.dir"); }),
            temp / "file/x" + ": cannot create run.dir: Not a directory");
}

TEST(FilesTest, AReadOnlyFolderIsNamed) {
  const TempDir temp;
  fs::permissions(temp.path(), fs::perms(0755));
  fs::create_directory(temp / "locked");
  fs::permissions(temp / "locked", fs::perms(0555));
  const uid_t user = ::geteuid();
  if (user == 0) {
    ASSERT_EQ(::seteuid(65534), 0);
  }  // root may write everywhere
  const std::string error = error_of([&] { require_writable_folder(temp / "locked", "run.dir"); });
  if (user == 0) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_EQ(error, temp / "locked" + ": run.dir is not writable: Permission denied");
}

}  // namespace
}  // namespace ceiling
