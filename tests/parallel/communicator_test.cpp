// Collectives of CPU ranks, each rank a thread of this process with its own connections.
#include "parallel/communicator.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "base/error.h"
#include "tests/support/ranks.h"

namespace ceiling {
namespace {

at::Tensor values_of(int64_t rank, int64_t n) {
  return at::arange(n, at::kDouble).mul(0.37).add(static_cast<double>(rank)).sin().to(at::kFloat);
}

// What a sum in rank order gives.
at::Tensor sum_in_order(int64_t size, int64_t n) {
  at::Tensor sum = values_of(0, n).clone();
  for (int64_t rank = 1; rank < size; ++rank) sum.add_(values_of(rank, n));
  return sum;
}

class CommunicatorTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(CommunicatorTest, AllReduceIsTheSumInRankOrderOnEveryRank) {
  const int64_t size = GetParam();
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{1'000'003}})
    expect_no_errors(on_ranks(size, [&](CpuCommunicator& world) {
      at::Tensor sum = values_of(world.rank(), n).clone();
      world.all_reduce(sum);
      if (!at::equal(sum, sum_in_order(size, n))) throw Error("another sum of {}", n);
    }));
}

TEST_P(CommunicatorTest, ReduceScatterThenAllGatherIsAllReduce) {
  const int64_t size = GetParam(), n = 1000 * size;
  expect_no_errors(on_ranks(size, [&](CpuCommunicator& world) {
    at::Tensor all = values_of(world.rank(), n).clone();
    at::Tensor own = all.narrow(0, 1000 * world.rank(), 1000);  // in place
    world.reduce_scatter(own, all);
    if (!at::equal(own, sum_in_order(size, n).narrow(0, 1000 * world.rank(), 1000)))
      throw Error("scatter");
    at::Tensor apart = at::empty({n});
    world.all_gather(apart, own.clone());
    world.all_gather(all, own);
    if (!at::equal(all, sum_in_order(size, n)) || !at::equal(apart, all)) throw Error("gather");
  }));
}

TEST_P(CommunicatorTest, BroadcastAndGather) {
  const int64_t size = GetParam();
  expect_no_errors(on_ranks(size, [&](CpuCommunicator& world) {
    for (int64_t root = 0; root < size; ++root) {
      at::Tensor value = values_of(world.rank(), 10).clone();
      world.broadcast(value, root);
      if (!at::equal(value, values_of(root, 10))) throw Error("broadcast from {}", root);
    }
    const auto texts =
        world.gather(std::string(static_cast<size_t>(world.rank()) * 1000, 'x'), "a test");
    for (int64_t rank = 0; rank < size; ++rank)
      if (texts[static_cast<size_t>(rank)].size() != static_cast<size_t>(rank) * 1000)
        throw Error("gather");
    const auto numbers = world.gather_numbers({static_cast<double>(world.rank()), 0.5}, "a test");
    for (int64_t rank = 0; rank < size; ++rank)
      if (numbers[static_cast<size_t>(rank)] != std::vector<double>{static_cast<double>(rank), 0.5})
        throw Error("numbers");
  }));
}

INSTANTIATE_TEST_SUITE_P(Sizes, CommunicatorTest, ::testing::Values(2, 3, 4, 9));

TEST(PeersTest, ARankThatIsGoneIsNamedAtOnceWithThePlaceAndTheOperation) {
  const Ranks errors = on_ranks(3, [](CpuCommunicator& world) {
    if (world.rank() == 1) return;  // its connections close
    at::Tensor sum = at::ones({100});
    world.all_reduce(sum);
  });
  EXPECT_EQ(errors[1], "");
  for (const size_t rank : {0u, 2u}) {
    EXPECT_NE(errors[rank].find("is gone, noticed by rank " + std::to_string(rank) +
                                " in all-reduce at step 7"),
              std::string::npos)
        << errors[rank];
  }
}

TEST(PeersTest, ASilentRankIsGivenUpAfterTheTimeout) {
  std::mutex done;
  done.lock();
  Ranks errors;
  std::thread ranks([&] {
    errors = on_ranks(
        2,
        [&](CpuCommunicator& world) {
          if (world.rank() == 1) {
            const std::lock_guard wait(done);  // alive, and saying nothing
            return;
          }
          try {
            world.barrier("a test");
          } catch (...) {
            done.unlock();
            throw;
          }
          done.unlock();
        },
        /*timeout_s=*/0.5);
  });
  ranks.join();
  EXPECT_NE(errors[0].find("has sent nothing for 0.5 s (parallel.timeout), waited for by rank 0 in "
                           "a test at step 7"),
            std::string::npos)
      << errors[0];
}

TEST(PeersTest, RanksThatAreNotAtTheSamePlaceAreNoticed) {
  const Ranks errors = on_ranks(2, [](CpuCommunicator& world) {
    at::Tensor sum = at::ones({world.rank() == 0 ? 100 : 120});
    world.all_reduce(sum);
  });
  EXPECT_NE((errors[0] + errors[1]).find("are not at the same place"), std::string::npos);
}

TEST(RendezvousTest, TwoProcessesOfOneRankAreRefused) {
  const Rendezvous host = Rendezvous::host();
  RankEnvironment e;
  e.rank = 1, e.size = 2, e.master_port = host.port(), e.hosted = true;
  const Rendezvous first(e, 5);
  try {
    const Rendezvous second(e, 5);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("rank 1 is at 127.0.0.1:"), 0u) << error.what();
  }
}

TEST(RendezvousTest, APortInUseIsNamed) {
  const Rendezvous host = Rendezvous::host();
  RankEnvironment e;  // rank 0 listens itself
  e.size = 2, e.master_port = host.port();
  try {
    const Rendezvous taken(e, 2);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              fmt::format("rank 0: cannot listen on port {}: Address already in use (MASTER_PORT). "
                          "Another job may use it; set MASTER_PORT to a free port",
                          host.port()));
  }
}

}  // namespace
}  // namespace ceiling
