// The backward of ssd within chunks: what tokens read from the state before their chunk. sm_90a.
// Bound:  HBM: dy and the states once.
// Floor:  0.18 ms for 32,768 tokens x 64 heads x 64, N 128 (537 MB at 3.0 TB/s).
// Layout: one block per (b, chunk, part of a group's heads) goes from head to head; each of its
//   eight warps owns 16 tokens, whose dC, summed over heads, stays in its registers; four of them
//   multiply together (wgmma).
// Limits: P 64, N 64 or 128.
#include "modules/ops/ssd/chunk.cuh"

namespace ceiling {
namespace {

using namespace gpu;

// dC through the states before the chunks, and what of dy . y that is.
template <int kN>
__global__ __launch_bounds__(kThreads,
                             2) void reads_kernel(const __grid_constant__ SsdChunkParams c) {
  using S = Shape<kN>;
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ int document[kC];
  const uint32_t base = shared_address(memory), stages = base + S::kWideBytes;
  // The same in all lanes, for the compiler too.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  const Place at(c);
  const auto fetch = [&](int n) {
    const uint32_t to = stages + n % kStages * S::kReadsStage;
    const int64_t head = at.head(c, n);
    copy_rows<Rows, kC>(to, at.rows(c.of.dy, (at.first_head + n) * kP), c.of.dy.time_stride,
                        at.tokens);
    copy_rows<typename S::State, kP>(to + S::kReadsState,
                                     static_cast<const bf16*>(c.states) + head * kP * kN, kN, kP);
    copy_vector(to + S::kReadsDecay, c.decay + head * kC);
    commit_copies();
  };
  copy_rows<typename S::Wide, kC>(base, at.rows(c.c, at.group * kN), c.c.time_stride, at.tokens);
  load_documents(document, c, at);
  if (at.heads > 0) fetch(0);
  next_is_here();

  float sums[kN / 8][4] = {};
  for (int n = 0; n < at.heads; ++n) {
    __syncthreads();  // this head is here, and all are done with the one before
    if (n + 1 < at.heads) fetch(n + 1);
    const uint32_t stage = n % kStages * S::kReadsStage;
    const float* decay =
        reinterpret_cast<const float*>(memory + S::kWideBytes + stage + S::kReadsDecay);
    float enter[2], dot[2], out[4][4];
    uint32_t rows[2][4];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const int row = warp * 16 + 8 * down + g;
      enter[down] = document[row] == 0 ? exp2_of(decay[row]) : 0.0f;
    }
    through_state<kN, 32>(sums, out, rows, dot, base, warp / 4 * 64,
                          stages + stage + Rows::down_first(lane) + Rows::at(warp * 16, 0),
                          stages + stage + S::kReadsState, enter, enter);
    next_is_here();
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const float read = quad_sum(dot[down]);
      if (t4 == 0) c.of_state[at.head(c, n) * kC + warp * 16 + 8 * down + g] = read;
    }
  }
  store_sums<kN, false>(sums, c.dc_parts, nullptr, c, at, warp);
}

[[maybe_unused]] const bool registered = [] {
  ssd_reads_cuda.launch = launch_chunks<reads_kernel<64>, Shape<64>::kReadsBytes, reads_kernel<128>,
                                        Shape<128>::kReadsBytes>;
  return true;
}();

}  // namespace
}  // namespace ceiling
