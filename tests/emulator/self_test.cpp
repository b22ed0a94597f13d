// The emulator finds what it is there to find.
#include <gtest/gtest.h>

#include <vector>

#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/cuda/wgmma.cuh"
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

TEST(EmulatorSelfTest, SomeThreadsTellAndOthersHear) {
  std::vector<int> heard(32);
  emulator::launch(1, 96, 4, [&] {
    auto* told = static_cast<int*>(emulator::dynamic_shared());
    if (threadIdx.x < 32) {
      gpu::barrier_wait(1, 64);
      heard[threadIdx.x] = *told;
    } else if (threadIdx.x < 64) {
      if (threadIdx.x == 40) *told = 7;
      gpu::barrier_arrive(1, 64);
    }
  });
  EXPECT_EQ(heard, std::vector<int>(32, 7));
}

// Products of a warpgroup, from tiles of small whole numbers: both ways of summing, and what a wait
// leaves running.
TEST(EmulatorSelfTest, AProductHasArrivedWhenItHasBeenWaitedForAndNotBefore) {
  using Tile = gpu::PanelTile<128, 64>;
  const auto left = [](int row, int column) { return (row * 7 + column * 3) % 11 - 5; };
  const auto right = [](int row, int column) { return (row * 5 + column) % 13 - 6; };
  std::vector<float> scores(64 * 32), moved(64 * 128), before(128);
  emulator::launch(1, 128, 2 * Tile::kBytes, [&] {
    auto* memory = static_cast<unsigned char*>(emulator::dynamic_shared());
    const uint32_t a = gpu::shared_address(memory), b = a + Tile::kBytes;
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 128; i += 128) {
      const int row = i / 128, column = i % 128;
      const auto at = [&](unsigned char* tile) {
        return reinterpret_cast<gpu::bf16*>(tile + Tile::at(row, column / 8 * 8)) + column % 8;
      };
      *at(memory) = __float2bfloat16_rn(static_cast<float>(left(row, column)));
      *at(memory + Tile::kBytes) = __float2bfloat16_rn(static_cast<float>(right(row, column)));
    }
    gpu::publish_to_wgmma();
    __syncthreads();
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    // a b^T of the rows 32 to 63 of b, over all columns.
    float score[4][4];
    for (int k = 0; k < 8; ++k)
      gpu::wgmma(score, Tile::columns(a, 0, 16 * k), Tile::columns(b, 32, 16 * k), k > 0);
    gpu::wgmma_commit();
    // The first 16 columns of a, times the first 16 rows of b.
    float sum[16][4] = {};
    uint32_t rows[4];
    gpu::load_matrices(rows, a + Tile::at(16 * warp + lane % 16, lane / 16 * 8));
    gpu::wgmma_rows(sum, rows, Tile::rows(b, 0));
    gpu::wgmma_commit();
    gpu::wgmma_wait<1>();
    before[threadIdx.x] = sum[0][0];
    const auto store = [&](std::vector<float>& to, int columns, int block, const float(&c)[4]) {
      for (int e = 0; e < 4; ++e)
        to[static_cast<size_t>((16 * warp + lane / 4 + e / 2 * 8) * columns + 8 * block +
                               lane % 4 * 2 + e % 2)] = c[e];
    };
    for (int i = 0; i < 4; ++i) store(scores, 32, i, score[i]);
    gpu::wgmma_wait<0>();
    for (int i = 0; i < 16; ++i) store(moved, 128, i, sum[i]);
  });
  EXPECT_EQ(before, std::vector<float>(128, 0));
  for (int row = 0; row < 64; ++row) {
    for (int column = 0; column < 32; ++column) {
      int expected = 0;
      for (int k = 0; k < 128; ++k) expected += left(row, k) * right(32 + column, k);
      EXPECT_EQ(scores[static_cast<size_t>(row * 32 + column)], expected);
    }
    for (int column = 0; column < 128; ++column) {
      int expected = 0;
      for (int k = 0; k < 16; ++k) expected += left(row, k) * right(k, column);
      EXPECT_EQ(moved[static_cast<size_t>(row * 128 + column)], expected);
    }
  }
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
