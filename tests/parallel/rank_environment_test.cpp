#include "parallel/rank_environment.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/support/expect_error.h"

namespace ceiling {
namespace {

using Variables = std::map<std::string, std::string>;

std::optional<RankEnvironment> read(const Variables& variables) {
  return read_rank_environment([&](const std::string& name) -> std::string {
    const auto found = variables.find(name);
    return found == variables.end() ? "" : found->second;
  });
}

const Variables kTorchrun = {{"RANK", "5"},
                             {"WORLD_SIZE", "8"},
                             {"LOCAL_RANK", "1"},
                             {"LOCAL_WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "node1"},
                             {"MASTER_PORT", "29511"}};

Variables with(Variables variables, const std::string& name, const std::string& value) {
  variables[name] = value;
  return variables;
}

TEST(RankEnvironmentTest, NothingWithoutALauncher) {
  EXPECT_FALSE(read({}));
  EXPECT_FALSE(read({{"MASTER_ADDR", "x"}, {"SLURM_PROCID", "0"}}));  // a batch script, not a step
}

TEST(RankEnvironmentTest, Torchrun) {
  const auto e = read(kTorchrun);
  ASSERT_TRUE(e);
  EXPECT_EQ(e->launcher, "torchrun");
  EXPECT_EQ(e->rank, 5);
  EXPECT_EQ(e->size, 8);
  EXPECT_EQ(e->local_rank, 1);
  EXPECT_EQ(e->local_size, 4);
  EXPECT_EQ(e->master_host, "node1");
  EXPECT_EQ(e->master_port, 29511);
  EXPECT_FALSE(e->hosted);
  EXPECT_TRUE(read(with(kTorchrun, "TORCHELASTIC_USE_AGENT_STORE", "True"))->hosted);
}

// Two attempts of one job that share a rendezvous must not read each other's keys.
TEST(RankEnvironmentTest, RestartsAreToldApart) {
  EXPECT_NE(read(with(kTorchrun, "TORCHELASTIC_RESTART_COUNT", "1"))->attempt,
            read(with(kTorchrun, "TORCHELASTIC_RESTART_COUNT", "2"))->attempt);
}

TEST(RankEnvironmentTest, Slurm) {
  const Variables step = {{"SLURM_PROCID", "9"},  {"SLURM_STEP_NUM_TASKS", "16"},
                          {"SLURM_LOCALID", "1"}, {"SLURM_STEP_ID", "0"},
                          {"SLURM_JOB_ID", "77"}, {"SLURM_STEP_NODELIST", "gpu[03-04,09]"}};
  const auto e = read(step);
  ASSERT_TRUE(e);
  EXPECT_EQ(e->launcher, "SLURM");
  EXPECT_EQ(e->rank, 9);
  EXPECT_EQ(e->size, 16);
  EXPECT_EQ(e->local_rank, 1);
  EXPECT_EQ(e->master_host, "gpu03");
  EXPECT_EQ(read(with(step, "SLURM_STEP_NODELIST", "alpha,beta"))->master_host, "alpha");
  EXPECT_EQ(read(with(step, "SLURM_STEP_NODELIST", "n[7]"))->master_host, "n7");
  EXPECT_EQ(read(with(step, "MASTER_ADDR", "10.0.0.1"))->master_host, "10.0.0.1");
  // The same on every process of a step, another one for another job.
  EXPECT_EQ(e->master_port, read(with(step, "SLURM_PROCID", "3"))->master_port);
  EXPECT_NE(e->master_port, read(with(step, "SLURM_JOB_ID", "78"))->master_port);
}

TEST(RankEnvironmentTest, Mpirun) {
  const Variables local = {{"OMPI_COMM_WORLD_RANK", "1"},
                           {"OMPI_COMM_WORLD_SIZE", "2"},
                           {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                           {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  const auto e = read(local);
  ASSERT_TRUE(e);
  EXPECT_EQ(e->launcher, "mpirun");
  EXPECT_EQ(e->rank, 1);
  EXPECT_EQ(e->master_host, "127.0.0.1");
  expect_error([&] { read(with(local, "OMPI_COMM_WORLD_LOCAL_SIZE", "1")); },
               "rank 1: local rank 1 of 1 processes on this host is not possible");
  const auto hosts =
      with(with(local, "OMPI_COMM_WORLD_LOCAL_SIZE", "1"), "OMPI_COMM_WORLD_LOCAL_RANK", "0");
  expect_error([&] { read(hosts); },
               "mpirun started processes on several hosts; set MASTER_ADDR to the host of rank 0");
  EXPECT_EQ(read({{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}})->size, 2);
}

TEST(RankEnvironmentTest, WhatIsImpossibleIsRefused) {
  expect_error([] { read(with(kTorchrun, "RANK", "8")); },
               "RANK=8 but WORLD_SIZE=8: ranks are 0 to 7");
  expect_error([] { read(with(kTorchrun, "RANK", "-1")); },
               "RANK: '-1' is not a number of processes or ranks");
  expect_error([] { read(with(kTorchrun, "WORLD_SIZE", "two")); },
               "WORLD_SIZE: 'two' is not a number of processes or ranks");
  expect_error([] { read(with(kTorchrun, "WORLD_SIZE", "0")); },
               "WORLD_SIZE: 0 processes are not possible");
  expect_error([] { read(with(kTorchrun, "MASTER_PORT", "70000")); },
               "MASTER_PORT=70000 is no port; set a free one of 1024 to 65535");
  expect_error([] { read(with(kTorchrun, "MASTER_ADDR", "")); },
               "WORLD_SIZE=8 needs MASTER_ADDR: where rank 0 is to be met");
  expect_error(
      [] {
        read({{"RANK", "0"}});
      },
      "RANK is set and WORLD_SIZE is not; a launcher sets both, to train in one process unset it");
}

}  // namespace
}  // namespace ceiling
