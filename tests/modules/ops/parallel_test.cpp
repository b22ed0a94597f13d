// at::parallel_for runs serially, in silence, in files that are compiled without OpenMP.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

namespace ceiling {
namespace {

TEST(ParallelTest, KernelsRunOnAsManyThreadsAsAsked) {
  const int before = at::get_num_threads();
  for (const int n_threads : {1, 2, 3}) {
    at::set_num_threads(n_threads);
    std::mutex mutex;
    std::set<std::thread::id> seen;
    at::parallel_for(0, 12, 1, [&](int64_t, int64_t) {
      const std::lock_guard lock(mutex);
      seen.insert(std::this_thread::get_id());
    });
    EXPECT_EQ(seen.size(), static_cast<size_t>(n_threads));
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace ceiling
