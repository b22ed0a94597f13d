#include "checkpoints/saver.h"

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"
#include "base/stop.h"
#include "tests/checkpoints/sample_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

class CheckpointSaverTest : public ::testing::Test {
 protected:
  // Everything in a checkpoint but the time it was made.
  std::map<std::string, std::string> content_of(const std::string& folder) {
    std::map<std::string, std::string> files;
    for (const FileRecord& file : read_manifest(folder).files)
      files[file.name] = read_file(folder + "/" + file.name);
    return files;
  }
  TempDir dir_;
};

TEST_F(CheckpointSaverTest, AsynchronousSaveEqualsSynchronousSave) {
  CheckpointStore first(dir_ / "a"), second(dir_ / "b");
  {
    CheckpointSaver asynchronous(first, true), synchronous(second, false);
    for (const int64_t step : {10, 20}) {
      asynchronous.save(sample_content(step));
      synchronous.save(sample_content(step));
    }
    EXPECT_GT(synchronous.last_save_s(), 0);
  }
  for (const char* name : {"/step-00000010", "/step-00000020"})
    EXPECT_EQ(content_of(first.folder() + name), content_of(second.folder() + name));
}

TEST_F(CheckpointSaverTest, WeightsChangedAfterTheCallAreNotInTheCheckpoint) {
  CheckpointStore store(dir_ / "checkpoints");
  CheckpointSaver saver(store, true);
  const CheckpointContent content = sample_content(10, /*seed=*/1, /*rows=*/20000);
  const at::Tensor before = content.weights[0].value.clone();
  saver.save(content);
  content.weights[0].value.zero_();
  saver.wait();
  EXPECT_TRUE(at::equal(SafetensorsFile(dir_ / "checkpoints/step-00000010/weights.safetensors")
                            .read("embedding.weight"),
                        before));
}

TEST_F(CheckpointSaverTest, ASecondSaveWaitsAndReusesTheBuffers) {
  CheckpointStore store(dir_ / "checkpoints");
  CheckpointSaver saver(store, true);
  for (const int64_t step : {10, 20, 30, 40})
    saver.save(sample_content(step, /*seed=*/step, /*rows=*/step == 20 ? 5 : 5000));
  saver.wait();
  for (const int64_t step : {30, 40}) {
    const CheckpointContent content = sample_content(step, step, 5000);
    const Checkpoint checkpoint(store.folder() + "/" + checkpoint_name(step));
    std::vector<NamedTensor> into = zeros_like(content.weights);
    checkpoint.load_weights(into);
    EXPECT_TRUE(at::equal(into[0].value, content.weights[0].value)) << step;
  }
}

TEST_F(CheckpointSaverTest, AFailureSurfacesAtTheNextCallOnce) {
  write_file_atomic(dir_ / "checkpoints", "a file where the folder should be");
  CheckpointStore store(dir_ / "checkpoints");
  CheckpointSaver saver(store, true);
  saver.save(sample_content(10));
  EXPECT_THROW(saver.save(sample_content(20)), Error);
  fs::remove(dir_ / "checkpoints");
  saver.save(sample_content(30));
  saver.wait();
  EXPECT_EQ(store.list().size(), 1u);
}

TEST_F(CheckpointSaverTest, TheDestructorFinishesTheSave) {
  CheckpointStore store(dir_ / "checkpoints");
  { CheckpointSaver(store, true).save(sample_content(10, 1, 20000)); }
  EXPECT_EQ(store.latest_valid(nullptr)->manifest().step, 10);
}

TEST_F(CheckpointSaverTest, WhatKilledSavesLeftIsRemovedAtTheStart) {
  fs::create_directories(dir_ / "checkpoints/step-00000010.tmp-1");
  CheckpointStore store(dir_ / "checkpoints");
  const CheckpointSaver saver(store, true);
  EXPECT_FALSE(fs::exists(dir_ / "checkpoints/step-00000010.tmp-1"));
}

// Case ux-02: a second signal in the middle of a save.
TEST_F(CheckpointSaverTest, ASecondSignalDuringASaveLeavesTheLastCheckpointAndNoTemporaryFolder) {
  CheckpointStore store(dir_ / "checkpoints");
  store.save(sample_content(10));
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    at::set_num_threads(1);  // the pool of the parent is not here
    stop::install_handlers();
    CheckpointSaver saver(store, true);
    for (int64_t step = 20;; ++step) {
      saver.save(sample_content(step, 1, 300'000));
      [[maybe_unused]] const auto n = ::write(ready[1], "x", 1);
    }
  }
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    ::kill(child, SIGINT);
    ::usleep(80'000);  // closer signals count as one
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 130) << status;
  EXPECT_TRUE(store.latest_valid(nullptr));
  const auto pending = [&] {
    std::string names;
    for (const auto& entry : fs::directory_iterator(store.folder()))
      if (checkpoint_step(entry.path().filename()) < 0) names += entry.path().filename().string();
    return names;
  };
  for (int i = 0; i < 1000 && !pending().empty(); ++i)
    ::usleep(10'000);  // a process of its own removes it
  EXPECT_EQ(pending(), "");
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace
}  // namespace ceiling
