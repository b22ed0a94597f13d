#include "checkpoints/store.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"
#include "tests/checkpoints/memory_meeting.h"
#include "tests/checkpoints/sample_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

class CheckpointStoreTest : public ::testing::Test {
 protected:
  std::string file(int64_t step, const std::string& name) {
    return folder_ + "/" + checkpoint_name(step) + "/" + name;
  }
  // Step of the checkpoint that a resume would use; `skipped_` says what it passed over.
  int64_t latest() {
    skipped_.clear();
    const auto found = store_.latest_valid([&](const std::string& name, const std::string& why) {
      skipped_.push_back(name + ": " + why);
    });
    return found ? found->manifest().step : -1;
  }
  std::vector<int64_t> steps() {
    std::vector<int64_t> found;
    for (const CheckpointInfo& info : store_.list()) found.push_back(info.step);
    return found;
  }
  TempDir dir_;
  std::string folder_ = dir_ / "checkpoints";
  CheckpointStore store_{folder_};
  std::vector<std::string> skipped_;
};

TEST_F(CheckpointStoreTest, WhatWasSavedIsLoaded) {
  const CheckpointContent content = sample_content(1000, /*seed=*/3);
  store_.save(content);
  const Checkpoint checkpoint(folder_ + "/step-00001000/");
  EXPECT_EQ(checkpoint.name(), "step-00001000");
  EXPECT_EQ(checkpoint.state(), content.state);
  EXPECT_EQ(read_file(file(1000, "config.yaml")), content.files[0].second);
  std::vector<NamedTensor> into = zeros_like(content.weights);
  checkpoint.load_weights(into);
  for (size_t i = 0; i < into.size(); ++i)
    EXPECT_TRUE(at::equal(into[i].value, content.weights[i].value)) << into[i].name;
  for (const NamedTensor& buffer : content.flat) {
    at::Tensor back = at::zeros_like(buffer.value);
    checkpoint.load_flat(buffer.name, content.layout_hash, back);
    EXPECT_TRUE(at::equal(back, buffer.value)) << buffer.name;
  }
}

TEST_F(CheckpointStoreTest, WithoutAnyCheckpointThereIsNoLatest) {
  EXPECT_EQ(latest(), -1);
  fs::create_directories(folder_);
  write_file_atomic(folder_ + "/notes.txt", "not a checkpoint");
  fs::create_directories(folder_ + "/step-1");
  EXPECT_EQ(latest(), -1);
  EXPECT_TRUE(steps().empty());
}

TEST_F(CheckpointStoreTest, NamesOfStepsReadBack) {
  for (const int64_t step : {0L, 7L, 1000L, 99999999L, 123456789L})
    EXPECT_EQ(checkpoint_step(checkpoint_name(step)), step);
  for (const char* name : {"step-", "step-1000", "step-00001000.tmp-77", "step-0000100x", "best"})
    EXPECT_EQ(checkpoint_step(name), -1) << name;
}

// Damage of every file in turn: the resume walks back, and says which file and why.
TEST_F(CheckpointStoreTest, DamageOfAnyFileLeadsToTheCheckpointBefore) {
  store_.save(sample_content(10));
  store_.save(sample_content(20));
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder_ + "/step-00000020"))
    names.push_back(entry.path().filename());
  ASSERT_EQ(names.size(), 6u);
  for (const std::string& name : names) {
    const std::string path = file(20, name), whole = read_file(path);
    std::vector<std::string> damaged = {"", whole.substr(0, whole.size() / 2),
                                        whole.substr(0, whole.size() - 1), whole + "\n"};
    for (const size_t at : {size_t{0}, whole.size() / 3, whole.size() / 2, whole.size() - 1}) {
      damaged.push_back(whole);
      damaged.back()[at] ^= 1;
    }
    for (const std::string& content : damaged) {
      write_file_atomic(path, content);
      EXPECT_EQ(latest(), 10) << name << " of " << content.size() << " bytes";
      ASSERT_EQ(skipped_.size(), 1u);
      EXPECT_NE(skipped_[0].find("step-00000020: " + path), std::string::npos) << skipped_[0];
    }
    fs::remove(path);
    EXPECT_EQ(latest(), 10) << name << " missing";
    EXPECT_NE(skipped_.at(0).find(path + ": missing"), std::string::npos) << skipped_[0];
    write_file_atomic(path, whole);
    EXPECT_EQ(latest(), 20);
  }
}

TEST_F(CheckpointStoreTest, EveryByteOfTheManifestCounts) {
  store_.save(sample_content(10));
  const std::string path = file(10, "manifest.json"), whole = read_file(path);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] ^= 1;
    write_file_atomic(path, changed);
    EXPECT_THROW(read_manifest(folder_ + "/step-00000010"), Error) << i;
  }
}

TEST_F(CheckpointStoreTest, DamageIsReportedWithFileAndSizes) {
  store_.save(sample_content(10));
  const auto message = [&]() -> std::string {
    try {
      const Checkpoint checkpoint(folder_ + "/step-00000010");
    } catch (const Error& e) {
      return e.what();
    }
    return "intact";
  };
  const std::string path = file(10, "weights.safetensors"), whole = read_file(path);
  write_file_atomic(path, whole.substr(0, 100));
  EXPECT_EQ(message(), fmt::format("{}: 100 bytes, the manifest says {}", path, whole.size()));
  std::string flipped = whole;
  flipped.back() ^= 4;
  write_file_atomic(path, flipped);
  EXPECT_EQ(message(),
            fmt::format("{}: SHA-256 is {}, the manifest says {}; the file was changed "
                        "or damaged",
                        path, sha256_hex(flipped).substr(0, 16), sha256_hex(whole).substr(0, 16)));
  write_file_atomic(path, whole);
  fs::rename(folder_ + "/step-00000010", folder_ + "/step-00000099");
  try {
    const Checkpoint checkpoint(folder_ + "/step-00000099");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()),
              folder_ + "/step-00000099: holds step 10; the folder was renamed");
  }
}

TEST_F(CheckpointStoreTest, IfNoneIsIntactTheRunDoesNotStartAnew) {
  store_.save(sample_content(10));
  fs::remove(file(10, "weights.safetensors"));
  try {
    latest();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(
        std::string(e.what()),
        fmt::format(
            "{}: none of the 1 checkpoints is intact (the newest: {}: missing, the "
            "manifest says {} bytes); restore one, or remove the folder to start "
            "anew",
            folder_, file(10, "weights.safetensors"),
            read_manifest(folder_ + "/step-00000010").find("weights.safetensors")->size_bytes));
  }
}

TEST_F(CheckpointStoreTest, CheckpointOfAnotherModelIsRefused) {
  const CheckpointContent content = sample_content(10);
  store_.save(content);
  const Checkpoint checkpoint(folder_ + "/step-00000010");
  const auto message = [&](const std::vector<NamedTensor>& into) -> std::string {
    try {
      checkpoint.load_weights(into);
    } catch (const Error& e) {
      return e.what();
    }
    return "loaded";
  };
  const std::string path = checkpoint.weights_path();
  std::vector<NamedTensor> into = zeros_like(content.weights);
  into.push_back({"layers.7.extra", at::zeros({2})});
  EXPECT_EQ(message(into), path + ": these are weights of another model; missing: layers.7.extra");
  into = zeros_like(content.weights);
  into.pop_back();
  EXPECT_EQ(message(into), path + ": these are weights of another model; it does not have: " +
                               content.weights.back().name);
  into = zeros_like(content.weights);
  into[0].value = at::zeros({5, 6});
  EXPECT_EQ(message(into),
            path + ": tensor 'embedding.weight' has shape [5,4], the model needs [5,6]");
  at::Tensor buffer = at::zeros_like(content.flat[0].value);
  try {
    checkpoint.load_flat("m", "another layout", buffer);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()),
              file(10, "optimizer-00000-of-00001.safetensors") +
                  ": the optimizer state is of another parameter layout; the checkpoint was made "
                  "by another model or program version");
  }
}

// What `rank` of `size` owns of `flat`, cut as ZeRO-1 cuts it: a slice of each bucket, and the tail
// on rank 0.
std::vector<std::pair<int64_t, int64_t>> pieces_of(int64_t n_flat, int64_t rank, int64_t size) {
  std::vector<std::pair<int64_t, int64_t>> pieces;
  int64_t begin = 0;
  for (const int64_t bucket : {40, 45}) {
    const int64_t slice = bucket / size;
    if (slice > 0) pieces.emplace_back(begin + rank * slice, begin + (rank + 1) * slice);
    begin += slice * size;
  }
  if (rank == 0) pieces.emplace_back(begin, n_flat);
  return pieces;
}

CheckpointContent content_of_rank(CheckpointContent content, const at::Tensor& m, int64_t rank,
                                  int64_t size) {
  content.range = {rank, size, m.numel(), pieces_of(m.numel(), rank, size)};
  std::vector<at::Tensor> parts{at::empty({0})};
  for (const auto& [begin, end] : content.range.pieces)
    parts.push_back(m.narrow(0, begin, end - begin));
  const at::Tensor own = at::cat(parts);
  content.flat = {{"m", own}, {"v", own * 2}};
  content.layout_hash = "layout";
  return content;
}

// Flat buffers written by n ranks are read back by any other number.
TEST_F(CheckpointStoreTest, OptimizerShardsAreCutAnewForAnyNumberOfRanks) {
  constexpr int64_t kNFlat = 101;
  const at::Tensor m = at::arange(kNFlat, at::kFloat), v = m * 2;
  for (const int64_t n_writers : {1, 2, 3, 7}) {
    const int64_t step = 10 * n_writers;
    MemoryMeetings(n_writers).run([&](SaveMeeting& meeting) {
      store_.save(content_of_rank(sample_content(step), m, meeting.rank(), n_writers), &meeting);
    });
    const Checkpoint checkpoint(folder_ + "/" + checkpoint_name(step));
    for (const int64_t n_readers : {1, 2, 5}) {
      for (int64_t rank = 0; rank < n_readers; ++rank) {
        const int64_t begin = kNFlat * rank / n_readers, end = kNFlat * (rank + 1) / n_readers;
        at::Tensor part = at::zeros({end - begin});
        checkpoint.load_flat("v", "layout", part, begin);
        EXPECT_TRUE(at::equal(part, v.narrow(0, begin, end - begin)))
            << n_writers << " -> " << n_readers << ", rank " << rank;
      }
    }
    at::Tensor beyond = at::zeros({kNFlat + 1});
    EXPECT_THROW(checkpoint.load_flat("m", "layout", beyond), Error);
  }
}

TEST_F(CheckpointStoreTest, AMissingOptimizerShardIsNoticed) {
  const at::Tensor m = at::zeros({101});
  MemoryMeetings(3).run([&](SaveMeeting& meeting) {
    CheckpointContent content = content_of_rank(sample_content(10), m, meeting.rank(), 3);
    if (meeting.rank() == 1) content.range.pieces.clear();
    store_.save(content, &meeting);
  });
  at::Tensor into = at::zeros({101});
  try {
    Checkpoint(folder_ + "/step-00000010").load_flat("m", "layout", into);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()),
              file(10, "optimizer-00002-of-00003.safetensors") +
                  ": begins at element 26, 13 was expected; a shard is missing or doubled");
  }
}

// One rank cannot write: rank 0 says which and why, and the checkpoint does not appear.
TEST_F(CheckpointStoreTest, ARankThatCannotWriteEndsTheSaveOfAll) {
  store_.save(sample_content(10));
  const at::Tensor m = at::zeros({101});
  try {
    MemoryMeetings(3).run([&](SaveMeeting& meeting) {
      CheckpointContent content = content_of_rank(sample_content(20), m, meeting.rank(), 3);
      if (meeting.rank() == 2) content.flat.push_back(content.flat[0]);  // refused: a name twice
      store_.save(content, &meeting);
    });
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("was not saved: rank 2: "), std::string::npos) << e.what();
  }
  EXPECT_EQ(latest(), 10);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

// Asked when a rank is heard: whether the folder that it writes into is still there.
class WatchedMeeting : public SaveMeeting {
 public:
  explicit WatchedMeeting(SaveMeeting& meeting) : meeting_(meeting) {}
  int64_t rank() const override { return meeting_.rank(); }
  int64_t size() const override { return meeting_.size(); }
  void tell(const std::string& key, const std::string& value) override {
    if (key == "folder") folder_ = nlohmann::json::parse(value).at("path");
    meeting_.tell(key, value);
  }
  std::string hear(const std::string& key, int64_t from_rank) override {
    const std::string word = meeting_.hear(key, from_rank);
    if (!folder_.empty()) n_heard_there_ += fs::exists(folder_);
    return word;
  }
  int64_t n_heard_there() const { return n_heard_there_; }

 private:
  SaveMeeting& meeting_;
  std::string folder_;
  int64_t n_heard_there_ = 0;
};

// A rank that cannot write, the first one too, and a slow one beside it: nothing stays behind.
TEST_F(CheckpointStoreTest, AFailedSaveWaitsForAllWhoWriteBeforeItsFolderGoes) {
  const at::Tensor m = at::zeros({101});
  for (const int64_t fails : {0, 1, 2}) {
    SCOPED_TRACE(fails);
    int64_t n_heard_there = 0;
    try {
      MemoryMeetings(3).run([&](SaveMeeting& meeting) {
        CheckpointContent content = content_of_rank(sample_content(20), m, meeting.rank(), 3);
        if (meeting.rank() == fails) content.flat.push_back(content.flat[0]);
        WatchedMeeting watched(meeting);
        const auto note = [&] {
          if (meeting.rank() == 0) n_heard_there = watched.n_heard_there();
        };
        try {
          store_.save(content, &watched);
        } catch (const Error&) {
          note();
          throw;
        }
        note();
      });
      FAIL();
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("was not saved"), std::string::npos) << e.what();
    }
    EXPECT_EQ(n_heard_there, 2);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 0);
  }
}

TEST_F(CheckpointStoreTest, RetentionKeepsTheNewestTheMultiplesAndTheBest) {
  const Retention retention{.keep_last = 2, .keep_every = 40, .keep_best = true};
  for (int64_t step = 10; step <= 100; step += 10) {
    CheckpointContent content = sample_content(step);
    content.state["valid_step"] = step;
    content.state["valid_nats"] = step == 30 ? 1.5 : 2.0;
    content.retention = retention;
    store_.save(content);
  }
  EXPECT_EQ(steps(), (std::vector<int64_t>{30, 40, 80, 90, 100}));
  for (const CheckpointInfo& info : store_.list()) {
    EXPECT_EQ(info.best, info.step == 30);
    EXPECT_EQ(info.permanent, info.step % 40 == 0);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 5);
}

TEST_F(CheckpointStoreTest, ADamagedCheckpointTakesNoGoodOnesPlace) {
  for (const int64_t step : {10, 20, 30}) store_.save(sample_content(step));
  EXPECT_EQ(steps(), (std::vector<int64_t>{20, 30}));
  fs::resize_file(file(30, "weights.safetensors"), 10);
  store_.save(sample_content(40));
  EXPECT_EQ(steps(), (std::vector<int64_t>{20, 30, 40}));
  EXPECT_NE(store_.list()[1].problem, "");
}

TEST_F(CheckpointStoreTest, ADamagedCheckpointIsReplacedWhenItsStepComesAgain) {
  store_.save(sample_content(10));
  store_.save(sample_content(20));
  fs::resize_file(file(20, "weights.safetensors"), 10);
  EXPECT_EQ(latest(), 10);
  store_.save(sample_content(20));
  EXPECT_EQ(latest(), 20);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2);
}

TEST_F(CheckpointStoreTest, ACheckpointThatIsBeingReadStays) {
  store_.save(sample_content(10));
  {
    const Checkpoint reading(folder_ + "/step-00000010");
    for (const int64_t step : {20, 30}) store_.save(sample_content(step));
    EXPECT_EQ(steps(), (std::vector<int64_t>{10, 20, 30}));
    std::vector<NamedTensor> into = zeros_like(sample_content(10).weights);
    reading.load_weights(into);
  }
  store_.save(sample_content(40));
  EXPECT_EQ(steps(), (std::vector<int64_t>{30, 40}));
}

TEST_F(CheckpointStoreTest, WhatKilledSavesLeftIsIgnoredAndRemoved) {
  store_.save(sample_content(10));
  for (const char* name : {"step-00000020.tmp-4194000", "step-00000030.tmp-removed"}) {
    fs::create_directories(folder_ + "/" + name);
    write_file_atomic(folder_ + "/" + name + "/weights.safetensors", "half");
  }
  fs::create_directories(folder_ + "/mine.tmp-1");
  EXPECT_EQ(latest(), 10);
  EXPECT_TRUE(skipped_.empty());
  store_.remove_abandoned();
  EXPECT_FALSE(fs::exists(folder_ + "/step-00000020.tmp-4194000"));
  EXPECT_FALSE(fs::exists(folder_ + "/step-00000030.tmp-removed"));
  EXPECT_TRUE(fs::exists(folder_ + "/mine.tmp-1"));
}

TEST_F(CheckpointStoreTest, SpaceNeededCountsTheOneMoreThatIsWrittenBeforeTheOldestGoes) {
  EXPECT_EQ(store_.bytes_needed(1000, 2), 3 * 12000);
  store_.save(sample_content(10));
  EXPECT_EQ(store_.bytes_needed(1000, 2), 2 * 12000);
  for (const int64_t step : {20, 30, 40}) store_.save(sample_content(step));
  EXPECT_EQ(store_.bytes_needed(1000, 2), 12000);
}

// Runs `body` in a child process and returns its wait status.
template <class Body>
int in_child(const Body& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

// A failed save: names path and sizes, leaves nothing, and the earlier checkpoint is intact.
void expect_refused_save(CheckpointStore& store, const std::string& reason) {
  try {
    store.save(sample_content(20, /*seed=*/1, /*rows=*/32768));
    ADD_FAILURE() << "saved";
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_EQ(message.rfind(store.folder() + "/step-00000020: the checkpoint (", 0), 0u) << message;
    EXPECT_NE(message.find(" MiB) was not saved: "), std::string::npos) << message;
    EXPECT_NE(message.find(reason), std::string::npos) << message;
    EXPECT_NE(message.find(" are free). Earlier checkpoints are untouched"), std::string::npos);
  }
  const auto found = store.latest_valid(nullptr);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->manifest().step, 10);
  EXPECT_EQ(std::distance(fs::directory_iterator(store.folder()), fs::directory_iterator()), 1);
}

TEST_F(CheckpointStoreTest, AFileSizeLimitEndsTheSaveNotTheCheckpoints) {
  store_.save(sample_content(10));
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 100'000;
  ::setrlimit(RLIMIT_FSIZE, &small);
  expect_refused_save(store_, "cannot write");
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
}

TEST_F(CheckpointStoreTest, AFullDiskEndsTheSaveNotTheCheckpoints) {
  const std::string mounted = dir_ / "small";
  fs::create_directories(mounted);
  if (::mount("tmpfs", mounted.c_str(), "tmpfs", 0, "size=500k") != 0)
    GTEST_SKIP() << "needs the right to mount";
  {
    CheckpointStore store(mounted + "/checkpoints");
    store.save(sample_content(10));
    expect_refused_save(store, "No space left on device");
  }
  ::umount(mounted.c_str());
}

TEST_F(CheckpointStoreTest, AReadOnlyFolderEndsTheSaveNotTheCheckpoints) {
  store_.save(sample_content(10));
  ::chmod(dir_.path().c_str(), 0755);
  ::chmod(folder_.c_str(), 0555);
  const bool root = ::geteuid() == 0;
  if (root && ::seteuid(65534) != 0) GTEST_SKIP() << "cannot become an ordinary user";
  expect_refused_save(store_, "Permission denied");
  if (root) {
    EXPECT_EQ(::seteuid(0), 0);
  }
  ::chmod(folder_.c_str(), 0755);
}

TEST_F(CheckpointStoreTest, KilledDuringSaveKeepsThePreviousCheckpoint) {
  store_.save(sample_content(10));
  for (const int n_shards : {0, 1}) {
    const int status = in_child([&] {
      const PendingFolder pending(folder_ + "/" + checkpoint_name(20));
      const CheckpointContent content = sample_content(20);
      if (n_shards > 0)
        write_optimizer_shard(pending.path(), content.flat, {0, 1, 20, {{0, 20}}}, "layout");
      ::kill(::getpid(), SIGKILL);
    });
    ASSERT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ(latest(), 10);
    EXPECT_TRUE(skipped_.empty());
  }
  store_.save(sample_content(20));
  EXPECT_EQ(latest(), 20);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2);
}

// Kills a saving child at arbitrary moments; whatever the moment, a good checkpoint remains.
TEST_F(CheckpointStoreTest, KilledAtAnyMomentLeavesAValidCheckpoint) {
  store_.save(sample_content(1));
  int64_t last = 1;
  for (int round = 0; round < 12; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      at::set_num_threads(1);  // the pool of the parent is not here
      for (int64_t step = last + 1;; ++step)
        store_.save(sample_content(step, /*seed=*/1, /*rows=*/256));
    }
    ::usleep(2000u + 1700u * static_cast<unsigned>(round));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    const int64_t found = latest();
    EXPECT_TRUE(skipped_.empty());
    EXPECT_GE(found, last);
    last = found;
  }
  store_.remove_abandoned();
  for (const auto& entry : fs::directory_iterator(folder_))
    EXPECT_GE(checkpoint_step(entry.path().filename()), 0) << entry.path();
}

}  // namespace
}  // namespace ceiling
