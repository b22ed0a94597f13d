// CPU ranks as threads of the test, each with its own connections.
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/rank_environment.h"
#include "parallel/rendezvous.h"

namespace ceiling {

using Ranks = std::vector<std::string>;  // what each rank threw; empty: nothing

// `work(communicator)` on every rank.
inline Ranks on_ranks(int64_t size, const std::function<void(CpuCommunicator&)>& work,
                      double timeout_s = 20) {
  const Rendezvous host = Rendezvous::host();
  Ranks errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      RankEnvironment e;
      e.launcher = "test", e.rank = rank, e.size = size, e.local_rank = rank, e.local_size = size;
      e.master_port = host.port(), e.hosted = true;
      try {
        Rendezvous rendezvous(e, timeout_s);
        CpuCommunicator world(std::make_shared<Peers>(e, rendezvous, timeout_s));
        world.set_where("step 7");
        work(world);
      } catch (const std::exception& error) {
        errors[static_cast<size_t>(rank)] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

inline void expect_no_errors(const Ranks& errors) {
  for (size_t rank = 0; rank < errors.size(); ++rank)
    EXPECT_EQ(errors[rank], "") << "rank " << rank;
}

}  // namespace ceiling
