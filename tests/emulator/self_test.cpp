// The emulator finds what it is there to find.
#include <gtest/gtest.h>

#include <vector>

#include "modules/ops/cuda/ptx.cuh"
#include "tests/emulator/emulator.h"

namespace ceiling {
namespace {

constexpr int kThreads = 64;

// Sums of all threads by way of shared memory; `barrier`: with the barrier that this needs.
void sum_kernel(int* out, bool barrier) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = static_cast<int>(blockIdx.x + threadIdx.x);
  if (barrier) __syncthreads();
  int sum = 0;
  for (int value : values) sum += value;
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
  __syncthreads();
  values[threadIdx.x] = -1000;
}

std::vector<int> sums(bool barrier) {
  std::vector<int> out(2 * kThreads);
  emulator::launch(2, kThreads, 0, [&] { sum_kernel(out.data(), barrier); });
  return out;
}

TEST(EmulatorSelfTest, ThreadsMeetAtBarriers) {
  const std::vector<int> out = sums(true);
  for (int i = 0; i < 2 * kThreads; ++i)
    EXPECT_EQ(out[static_cast<size_t>(i)], kThreads * (kThreads - 1) / 2 + i / kThreads * kThreads);
}

TEST(EmulatorSelfTest, AMissingBarrierShows) { EXPECT_NE(sums(false), sums(true)); }

TEST(EmulatorSelfTest, LanesExchange) {
  std::vector<int> up(32), with(32);
  unsigned odd = 0;
  emulator::launch(1, 32, 0, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    up[threadIdx.x] = __shfl_up_sync(0xffffffffu, lane, 3);
    with[threadIdx.x] = __shfl_xor_sync(0xffffffffu, lane, 5);
    odd = __ballot_sync(0xffffffffu, lane % 2);
  });
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(up[static_cast<size_t>(lane)], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(with[static_cast<size_t>(lane)], lane ^ 5);
  }
  EXPECT_EQ(odd, 0xaaaaaaaau);
}

TEST(EmulatorSelfTest, ACopyHasArrivedWhenItHasBeenWaitedForAndNotBefore) {
  alignas(16) const float from[4] = {1, 2, 3, 4};
  float before = 0, after = 0;
  emulator::launch(1, 32, 16, [&] {
    auto* to = static_cast<float*>(emulator::dynamic_shared());
    if (threadIdx.x == 0) gpu::copy_async(gpu::shared_address(to), from, true);
    gpu::commit_copies();
    if (threadIdx.x == 0) before = to[2];
    gpu::wait_copies<0>();
    if (threadIdx.x == 0) after = to[2];
  });
  EXPECT_TRUE(std::isnan(before));
  EXPECT_EQ(after, 3);
}

using EmulatorDeathTest = ::testing::Test;

TEST(EmulatorDeathTest, ThreadsThatNeverMeet) {
  EXPECT_DEATH(emulator::launch(1, 64, 0,
                                [] {
                                  if (threadIdx.x < 32) __syncwarp(0xffffffffu);
                                  if (threadIdx.x == 0) __syncwarp(3);
                                  __syncthreads();
                                }),
               "threads wait for others that never come");
}

TEST(EmulatorDeathTest, AnIndexBeyondTheEnd) {
  std::vector<float> global(kThreads);
  EXPECT_DEATH(emulator::launch(1, kThreads, 0, [&] { global.data()[threadIdx.x + 1] = 1; }),
               "heap-buffer-overflow");
  EXPECT_DEATH(emulator::launch(1, kThreads, kThreads * sizeof(float),
                                [] {
                                  auto* shared = static_cast<float*>(emulator::dynamic_shared());
                                  shared[threadIdx.x + 1] = 1;
                                }),
               "use-after-poison");
}

TEST(EmulatorDeathTest, AVectorThatBeginsBetweenWholePieces) {
  alignas(16) float global[8] = {};
  EXPECT_DEATH(emulator::launch(1, 32, 0, [&] { reinterpret_cast<float4*>(global + 1)->x = 1; }),
               "misaligned address");
  EXPECT_DEATH(emulator::launch(1, 32, 32,
                                [&] {
                                  const uint32_t to =
                                      gpu::shared_address(emulator::dynamic_shared());
                                  gpu::copy_async(to, global + 1, true);
                                }),
               "between whole pieces");
}

}  // namespace
}  // namespace ceiling

// Torch leaves some memory to the end of the process.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
