// ceiling checkpoint list | verify, through the command line.
#include <gtest/gtest.h>

#include "base/files.h"
#include "tests/checkpoints/sample_checkpoint.h"
#include "tests/support/command.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

class CheckpointCommandTest : public ::testing::Test {
 protected:
  CheckpointCommandTest() {
    CheckpointStore store(run_ + "/checkpoints");
    for (const int64_t step : {10, 20, 30}) {
      CheckpointContent content = sample_content(step);
      content.state["valid_step"] = step;
      content.state["valid_nats"] = step == 20 ? 1.25 : 1.5;
      content.retention = {.keep_last = 3, .keep_every = 10};
      store.save(content);
    }
  }
  std::string weights(const std::string& name) {
    return run_ + "/checkpoints/" + name + "/weights.safetensors";
  }
  TempDir dir_;
  std::string run_ = dir_ / "run";
};

TEST_F(CheckpointCommandTest, ListSaysWhatThereIsAndWhy) {
  fs::resize_file(weights("step-00000010"), 17);
  const Outcome outcome = ceiling_command({"checkpoint", "list", run_});
  EXPECT_EQ(outcome.code, 0);
  std::vector<std::string> lines;
  for (size_t at = 0; at < outcome.out.size();) {
    const size_t end = outcome.out.find('\n', at);
    lines.push_back(outcome.out.substr(at, end - at));
    at = end + 1;
  }
  ASSERT_EQ(lines.size(), 4u) << outcome.out;
  EXPECT_NE(lines[1].find("damaged: " + weights("step-00000010") + ": 17 bytes, the manifest says"),
            std::string::npos);
  EXPECT_NE(lines[2].find("3.2500    1.2500  best, permanent"), std::string::npos) << lines[2];
  EXPECT_NE(lines[3].find("3.2500    1.5000  latest, permanent"), std::string::npos) << lines[3];
}

TEST_F(CheckpointCommandTest, VerifyReadsEveryByteAndFailsOnDamage) {
  EXPECT_EQ(ceiling_command({"checkpoint", "verify", run_}).code, 0);
  std::string content = read_file(weights("step-00000020"));
  content.back() ^= 1;
  write_file_atomic(weights("step-00000020"), content);
  const Outcome all = ceiling_command({"checkpoint", "verify", run_});
  EXPECT_EQ(all.code, 1);
  EXPECT_NE(all.out.find("step-00000010: intact, 5 files, "), std::string::npos) << all.out;
  EXPECT_NE(all.out.find("step-00000020: DAMAGED: " + weights("step-00000020") + ": SHA-256 is "),
            std::string::npos)
      << all.out;
  EXPECT_EQ(ceiling_command({"checkpoint", "verify", run_ + "/checkpoints/step-00000030/"}).code,
            0);
  EXPECT_EQ(ceiling_command({"checkpoint", "verify", run_ + "/checkpoints/step-00000020/"}).code,
            1);
}

TEST_F(CheckpointCommandTest, AFolderThatIsNoRunIsNamed) {
  const Outcome outcome = ceiling_command({"checkpoint", "list", dir_ / "nothing"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            "ceiling: error: " + (dir_ / "nothing") + ": no such folder; give a run folder\n");
  EXPECT_EQ(ceiling_command({"checkpoint", "verify", dir_.path()}).err,
            "ceiling: error: " + dir_.path() + ": no checkpoints\n");
}

}  // namespace
}  // namespace ceiling
