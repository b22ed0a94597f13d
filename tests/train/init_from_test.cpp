// train.init_from: what a run that begins with another one's weights takes from it, and refuses.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "base/files.h"
#include "base/text.h"
#include "checkpoints/store.h"
#include "tests/support/dataset.h"
#include "tests/support/expect_error.h"
#include "tests/support/model.h"
#include "tests/support/temp_dir.h"
#include "train/command.h"
#include "train/trainer.h"

namespace ceiling {
namespace {

const char* kLlama = "llama {d_model: 32, n_layers: 2, n_heads: 4, d_ff: 128}";

using Weights = std::map<std::string, at::Tensor>;

Weights weights_of(const std::string& checkpoint) {
  const SafetensorsFile file(checkpoint + "/weights.safetensors");
  Weights weights;
  for (const auto& entry : file.entries()) weights[entry.name] = file.read(entry.name);
  return weights;
}

void expect_bitwise(const Weights& a, const Weights& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, value] : a) EXPECT_TRUE(at::equal(value, b.at(name))) << name;
}

int ceiling_command(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "ceiling");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return run_command_line(static_cast<int>(argv.size()), argv.data());
}

class InitFromTest : public ::testing::Test {
 protected:
  InitFromTest() {
    write_byte_dataset(data_, made_up_documents(60, 1), made_up_documents(6, 2));
    write_byte_dataset(other_data_, made_up_documents(60, 3), made_up_documents(6, 4));
  }
  std::string run_dir(const std::string& name) { return dir_ / name; }
  std::string checkpoint(const std::string& name, int64_t step) {
    return run_dir(name) + "/checkpoints/" + checkpoint_name(step);
  }
  // A run on other text that begins with the weights at `from`.
  RunConfig further(const std::string& model, const std::string& from, const std::string& name,
                    int64_t steps, std::vector<std::string> changes = {}) {
    changes.push_back("train.init_from=" + from);
    return tiny_run(model, other_data_, run_dir(name), steps, changes);
  }
  // Trains nothing: what is saved is what was read.
  RunConfig unchanged(const std::string& model, const std::string& from, const std::string& name) {
    return further(model, from, name, 1, {"train.lr=0"});
  }
  TempDir dir_;
  std::string data_ = dir_ / "data", other_data_ = dir_ / "other";
};

class EachArchitectureInitFromTest : public InitFromTest,
                                     public ::testing::WithParamInterface<std::string> {};

TEST_P(EachArchitectureInitFromTest, ARunBeginsWithTheWeightsAndNothingElse) {
  train(tiny_run(GetParam(), data_, run_dir("first"), 3, {"checkpoint.every=2"}));
  train(unchanged(GetParam(), run_dir("first"), "newest"));
  expect_bitwise(weights_of(checkpoint("first", 3)), weights_of(checkpoint("newest", 1)));
  train(unchanged(GetParam(), checkpoint("first", 2), "chosen"));
  expect_bitwise(weights_of(checkpoint("first", 2)), weights_of(checkpoint("chosen", 1)));
  const Checkpoint first(checkpoint("first", 2));
  const nlohmann::json state = Checkpoint(checkpoint("chosen", 1)).state();
  EXPECT_EQ(state.at("init_from"),
            nlohmann::json({{"path", first.path()},
                            {"step", 2},
                            {"weights_sha256", first.manifest().find(kWeightsName)->sha256}}));
  EXPECT_EQ(state.at("optimizer_step"), 1);
  EXPECT_EQ(state.at("position"), 4);
}

TEST_P(EachArchitectureInitFromTest, AnImportedModelIsTrainedFurther) {
  train(tiny_run(GetParam(), data_, run_dir("first"), 2));
  ASSERT_EQ(ceiling_command({"export", run_dir("first"), "--out", dir_ / "hf"}), 0);
  ASSERT_EQ(ceiling_command({"import", dir_ / "hf", "--out", run_dir("imported")}), 0);
  // vocab_multiple is no part of an export.
  std::string model = GetParam();
  if (const size_t at = model.find(", vocab_multiple: 64"); at != std::string::npos)
    model.erase(at, std::string(", vocab_multiple: 64").size());
  train(unchanged(model, run_dir("imported"), "further"));
  expect_bitwise(weights_of(checkpoint("imported", 0)), weights_of(checkpoint("further", 1)));
}

INSTANTIATE_TEST_SUITE_P(All, EachArchitectureInitFromTest, ::testing::ValuesIn(tiny_models()),
                         tiny_model_name);

TEST_F(InitFromTest, AResumedRunDoesNotReadThemAgain) {
  train(tiny_run(kLlama, data_, run_dir("first"), 2));
  train(further(kLlama, run_dir("first"), "whole", 4));
  train(further(kLlama, run_dir("first"), "cut", 4, {"checkpoint.every=2"}));
  fs::remove_all(checkpoint("cut", 4));
  fs::remove_all(run_dir("first"));
  train(further(kLlama, run_dir("first"), "cut", 4, {"checkpoint.every=2"}));
  expect_bitwise(weights_of(checkpoint("whole", 4)), weights_of(checkpoint("cut", 4)));
  EXPECT_EQ(Checkpoint(checkpoint("whole", 4)).state().at("init_from"),
            Checkpoint(checkpoint("cut", 4)).state().at("init_from"));
}

TEST_F(InitFromTest, AnotherModelIsRefusedWithTheKeysThatDiffer) {
  train(tiny_run(kLlama, data_, run_dir("first"), 1));
  const auto refused = [&](const std::string& model, const std::string& difference) {
    expect_error([&] { train(further(model, run_dir("first"), "x", 1)); },
                 fmt::format("train.init_from: {} holds another model than this run is to train:\n"
                             "{}Set the model section as it is there; keys that say the same in "
                             "other words may stay",
                             checkpoint("first", 1), difference));
  };
  refused("llama {d_model: 64, n_layers: 2, n_heads: 4, d_ff: 128}", "  model.d_model: 32 -> 64\n");
  // The same shapes, but another function.
  refused("llama {d_model: 32, n_layers: 2, n_heads: 2, d_ff: 128}", "  model.n_heads: 4 -> 2\n");
  refused("llama {d_model: 32, n_layers: 2, n_heads: 4, d_ff: 128, rope_base: 20000}",
          "  model.rope_base: 10000 -> 20000\n");
  EXPECT_FALSE(fs::exists(run_dir("x") + "/checkpoints"));
}

TEST_F(InitFromTest, OtherWordsForTheSameModelAreAccepted) {
  train(tiny_run(kLlama, data_, run_dir("first"), 1));
  train(unchanged("llama {d_model: 32, n_layers: 2, n_heads: 4, n_kv_heads: 4, head_dim: 8}",
                  run_dir("first"), "auto"));
  expect_bitwise(weights_of(checkpoint("first", 1)), weights_of(checkpoint("auto", 1)));
  // A longer context and another spread of the random weights are no other model.
  train(further(kLlama, run_dir("first"), "long", 1, {"data.context=48", "model.init_std=0.5"}));
}

TEST_F(InitFromTest, AnotherTokenizerIsRefused) {
  train(tiny_run(kLlama, data_, run_dir("first"), 1));
  const std::string path = checkpoint("first", 1);
  nlohmann::json state = Checkpoint(path).state();
  const std::string sha256 = state.at("tokenizer").at("sha256");
  state["tokenizer"]["sha256"] = "0123456789ab" + sha256.substr(12);
  CheckpointContent content;
  for (const auto& [name, value] : weights_of(path)) content.weights.push_back({name, value});
  content.step = 7;
  content.state = state;
  CheckpointStore(run_dir("stranger") + "/checkpoints").save(content);
  expect_error(
      [&] { train(further(kLlama, run_dir("stranger"), "x", 1)); },
      fmt::format("train.init_from: the dataset: tokenizer is 'byte' (sha256 {}, 258 ids), the "
                  "model was trained with 'byte' (0123456789ab, 258 ids); prepare the text again "
                  "with the model's",
                  sha256.substr(0, 12)));
}

TEST_F(InitFromTest, AFolderThatIsNoRunIsNamed) {
  fs::create_directories(dir_ / "hf");
  write_file_atomic(dir_ / "hf/config.json", "{}");
  expect_error([&] { train(further(kLlama, dir_ / "hf", "x", 1)); },
               fmt::format("{0}: is a Hugging Face folder; read it with `ceiling import {0} --out "
                           "RUN`, and give RUN",
                           dir_ / "hf"));
  expect_error([&] { train(further(kLlama, dir_ / "nothing", "x", 1)); },
               dir_ / "nothing" + ": does not exist; give a run folder or a checkpoint");
}

TEST_F(InitFromTest, AnImportedFolderIsNotARunToContinue) {
  train(tiny_run(kLlama, data_, run_dir("first"), 1));
  ASSERT_EQ(ceiling_command({"export", run_dir("first"), "--out", dir_ / "hf"}), 0);
  ASSERT_EQ(ceiling_command({"import", dir_ / "hf", "--out", run_dir("imported")}), 0);
  expect_error([&] { train(tiny_run(kLlama, data_, run_dir("imported"), 1)); },
               run_dir("imported") +
                   ": holds an imported model and no run; to train it further, set "
                   "train.init_from to this folder and run.dir to another one");
}

}  // namespace
}  // namespace ceiling
