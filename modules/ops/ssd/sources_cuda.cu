// The backward of ssd within chunks: what tokens give to later ones, within the chunk and through
// the state after it. sm_90a. README.md has the maths and the design.
// Bound:  HBM: x, dy, dx and the gradients of states once.
// Floor:  0.36 ms for 32,768 tokens x 64 heads x 64, N 128 (1.07 GB at 3.0 TB/s).
// Layout: blocks and warps as in reads_cuda.cu, a warp's tokens being sources. What all heads
//   share, B and its products with C, stays on chip, and so do the sums over heads: 16 x N of dB,
//   and the source x reader pairs that B and C are multiplied with once, at the end.
// Limits: P 64, N 64 or 128; one block per SM, for its 250 registers a thread.
#include "modules/ops/ssd/chunk.cuh"

namespace ceiling {
namespace {

using namespace gpu;

// The sums over a warp's 16 rows of a 16 x 16 tile, given those over rows g and g + 8: a lane ends
// with one column's, 8 (lane / 16) + 2 (lane % 4) + lane / 8 % 2.
__device__ __forceinline__ float column_sum(const float (&column)[2][2]) {
  const int lane = threadIdx.x % kWarp;
  const bool half = lane & 16, right = lane & 8;
  float keep[2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
    keep[i] = (half ? column[1][i] : column[0][i]) +
              __shfl_xor_sync(0xffffffffu, half ? column[0][i] : column[1][i], 16);
  float sum =
      (right ? keep[1] : keep[0]) + __shfl_xor_sync(0xffffffffu, right ? keep[0] : keep[1], 8);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 4);
}

// What this thread has of the product of two states.
template <int kN>
__device__ __forceinline__ float share_of_dot(const unsigned char* a, const unsigned char* b) {
  using Wide = Tile<kN>;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kP * Wide::kPieces / kThreads; ++i) {
    const int piece = i * kThreads + static_cast<int>(threadIdx.x);
    const uint32_t at = Wide::at(piece / Wide::kPieces, piece % Wide::kPieces * 8);
    float left[8], right[8];
    load<8>(reinterpret_cast<const bf16*>(a + at), left);
    load<8>(reinterpret_cast<const bf16*>(b + at), right);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum += left[e] * right[e];
  }
  return sum;
}

template <int kN>
__global__ __launch_bounds__(kThreads,
                             1) void sources_kernel(const __grid_constant__ SsdChunkParams c) {
  using S = Shape<kN>;
  using Wide = Tile<kN>;
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ int document[kC];
  __shared__ float pair_sums[2][kWarps][kC];  // of readers, by their sources' block
  __shared__ float passing_sums[2][kWarps];
  constexpr uint32_t kStagesAt = S::kWideBytes + kScoreBytes;
  const uint32_t base = shared_address(memory), stages = base + kStagesAt;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  // The 16 sources of this warp, `block`: readers begin with them. Warps w and w + 4 share a
  // scheduler, and together have nine blocks of readers.
  const int block = warp < kWarps / 2 ? warp : kWarps + kWarps / 2 - 1 - warp;
  const Place at(c);
  const auto last_decay = [&](int n) {
    return n < at.heads ? c.decay[at.head(c, n) * kC + kC - 1] : 0.0f;
  };
  // Whether anything passes over the whole chunk that float32 sums would notice.
  const auto passes = [&](float decay) { return document[kC - 1] == 0 && decay > -32.0f; };
  const auto fetch = [&](int n, bool passing) {
    const uint32_t to = stages + n % kStages * S::kStage;
    const int64_t head = at.head(c, n), column = (at.first_head + n) * kP;
    copy_rows<Rows, kC>(to, at.rows(c.of.x, column), c.of.x.time_stride, at.tokens);
    copy_rows<Rows, kC>(to + S::kDy, at.rows(c.of.dy, column), c.of.dy.time_stride, at.tokens);
    copy_rows<Wide, kP>(to + S::kState, static_cast<const bf16*>(c.state_grads) + head * kP * kN,
                        kN, kP);
    copy_vector(to + S::kDecay, c.decay + head * kC);
    copy_vector(to + S::kStep, c.step + head * kC);
    if (passing)
      copy_rows<Wide, kP>(to + S::kBefore, static_cast<const bf16*>(c.states) + head * kP * kN, kN,
                          kP);
    commit_copies();
  };
  const auto fetch_c = [&] {
    copy_rows<Wide, kC>(stages, at.rows(c.c, at.group * kN), c.c.time_stride, at.tokens);
    commit_copies();
  };
  copy_rows<Wide, kC>(base, at.rows(c.b, at.group * kN), c.b.time_stride, at.tokens);
  load_documents(document, c, at);
  fetch_c();
  wait_copies<0>();
  __syncthreads();

  const uint32_t b_at = base + Wide::down_first(lane) + Wide::at(block * 16, 0);
  // B C^T where a reader sees a source: readers j * 16 on, j counted from the diagonal.
  const int blocks = kWarps - block;
  float4* scores = reinterpret_cast<float4*>(memory + S::kWideBytes) +
                   (block * kWarps - block * (block - 1) / 2) * (kScoreTile / 16) + lane;
  const auto sees = [&](int j, int half, int e) {
    const int source = block * 16 + 8 * (e / 2) + g,
              reader = (block + j) * 16 + 8 * half + 2 * t4 + e % 2;
    return reader >= source && document[reader] == document[source];
  };
#pragma unroll 1
  for (int j = 0; j < blocks; ++j) {
    float score[2][4] = {};
    const uint32_t c_at = stages + Wide::right_first(lane) + (block + j) * Wide::at(16, 0);
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      uint32_t a[4], r[4];
      load_matrices(a, b_at + Wide::at(0, 16 * k));
      load_matrices(r, c_at + Wide::at(0, 16 * k));
      mma(score[0], a, r[0], r[1]);
      mma(score[1], a, r[2], r[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* s = score[half];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (!sees(j, half, e)) s[e] = 0;
      scores[(2 * j + half) * kWarp] = make_float4(s[0], s[1], s[2], s[3]);
    }
  }
  __syncthreads();  // all are done with C
  float decay_ahead[2] = {last_decay(0), last_decay(1)};
  if (at.heads > 0) fetch(0, passes(decay_ahead[0]));

  const auto add_warps = [&](int n) {
    float sum = 0;
    if (threadIdx.x == kC) {
      for (const float of : passing_sums[n % 2]) sum += of;
      c.passing[at.head(c, n)] = sum;
    }
    if (threadIdx.x >= kC) return;
    for (int of = 0; of <= static_cast<int>(threadIdx.x) / 16; ++of)
      sum += pair_sums[n % 2][of][threadIdx.x];
    c.of_tokens[at.head(c, n) * kC + threadIdx.x] = sum;
  };

  float sums[kN / 8][4] = {};
  float pairs[kWarps][2][4] = {};  // sums over heads of Delta_s decay(s, l) dy_l . x_s
  const int row0 = block * 16 + g;
  const bool in_last[2] = {document[row0] == document[kC - 1],
                           document[row0 + 8] == document[kC - 1]};
  for (int n = 0; n < at.heads; ++n) {
    wait_copies<0>();
    __syncthreads();  // this head is here, and all are done with the one before
    if (n > 0) add_warps(n - 1);
    if (n + 1 < at.heads) fetch(n + 1, passes(decay_ahead[1]));
    const uint32_t stage_at = n % kStages * S::kStage, stage = stages + stage_at;
    unsigned char* here = memory + kStagesAt + stage_at;
    const float* decay = reinterpret_cast<const float*>(here + S::kDecay);
    const float* step = reinterpret_cast<const float*>(here + S::kStep);
    float passing = 0;
    if (passes(decay_ahead[0]))
      passing = exp2_fast(decay_ahead[0]) *
                warp_sum(share_of_dot<kN>(here + S::kState, here + S::kBefore));
    if (lane == 0) passing_sums[n % 2][warp] = passing;
    decay_ahead[0] = decay_ahead[1], decay_ahead[1] = last_decay(n + 2);
    const float own_decay[2] = {decay[row0], decay[row0 + 8]},
                own_step[2] = {step[row0], step[row0 + 8]};
    float leave[2], weights[2], to_state[2], out[8][4];
    uint32_t x[4][4];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      leave[down] = in_last[down] ? exp2_fast(decay[kC - 1] - own_decay[down]) : 0.0f;
      weights[down] = leave[down] * own_step[down];
    }
    through_state<kN>(sums, out, x, to_state, b_at,
                      stage + Rows::down_first(lane) + Rows::at(block * 16, 0), stage + S::kState,
                      leave, weights);

    // Readers in the chunk, 16 at a time.
    float to_tokens[2] = {0, 0};
    const uint32_t dy_right = stage + S::kDy + Rows::right_first(lane) + block * Rows::at(16, 0),
                   dy_down = stage + S::kDy + Rows::down_first(lane) + block * Rows::at(16, 0);
#pragma unroll
    for (int j = 0; j < kWarps; ++j) {
      if (j >= blocks) break;
      float product[2][4] = {};  // x_s . dy_l
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        uint32_t r[4];
        load_matrices(r, dy_right + Rows::at(16 * j, 16 * k));
        mma(product[0], x[k], r[0], r[1]);
        mma(product[1], x[k], r[2], r[3]);
      }
      float column[2][2];
      uint32_t a[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float4 four = scores[(2 * j + half) * kWarp];
        const float score[4] = {four.x, four.y, four.z, four.w};
        const float2 of_readers =
            *reinterpret_cast<const float2*>(decay + (block + j) * 16 + 8 * half + 2 * t4);
        float weighted[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          // Where the source is later, nothing is seen; the power must be finite there.
          const float between =
              exp2_fast(fminf((e % 2 ? of_readers.y : of_readers.x) - own_decay[e / 2], 0.0f));
          pairs[j][half][e] += own_step[e / 2] * (product[half][e] * between);
          weighted[e] = score[e] * between;
          product[half][e] *= weighted[e];
          to_tokens[e / 2] += product[half][e];
        }
#pragma unroll
        for (int right = 0; right < 2; ++right)
          column[half][right] =
              own_step[0] * product[half][right] + own_step[1] * product[half][2 + right];
        a[2 * half] = pack(weighted[0], weighted[1]);
        a[2 * half + 1] = pack(weighted[2], weighted[3]);
      }
      const float sum = column_sum(column);
      if (!(lane & 4))
        pair_sums[n % 2][block][(block + j) * 16 + lane / 16 * 8 + 2 * t4 + lane / 8 % 2] = sum;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t r[4];
        load_matrices_transposed(r, dy_down + Rows::at(16 * j, 16 * i));
        mma(out[2 * i], a, r[0], r[1]);
        mma(out[2 * i + 1], a, r[2], r[3]);
      }
    }

    // dx = Delta out + D dy, by way of x's place, of which no other warp reads these rows.
    const float d = static_cast<const float*>(c.of.d)[at.first_head + n];
    float skip[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        const uint32_t place = Rows::at(block * 16, 8 * i) + (8 * down + g) * Rows::kPitch + 4 * t4;
        const float2 dy = both(*reinterpret_cast<const uint32_t*>(here + S::kDy + place)),
                     own = both(x[i / 2][2 * (i % 2) + down]);
        skip[down] += own.x * dy.x + own.y * dy.y;
        *reinterpret_cast<uint32_t*>(here + place) =
            pack(own_step[down] * out[i][2 * down] + d * dy.x,
                 own_step[down] * out[i][2 * down + 1] + d * dy.y);
      }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = block * 16 + 4 * i + lane / 8, column = lane % 8 * 8;
      if (row >= at.tokens) continue;
      const int64_t token = at.b * c.of.seq_len + at.t0 + row;
      *reinterpret_cast<uint4*>(static_cast<bf16*>(c.of.dx) +
                                (token * c.of.heads + at.first_head + n) * kP + column) =
          *reinterpret_cast<const uint4*>(here + row * Rows::kPitch + 2 * column);
    }
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const float tokens = quad_sum(to_tokens[down]), state = quad_sum(to_state[down]),
                  skipped = quad_sum(skip[down]);
      const int64_t to = at.head(c, n) * kC + row0 + 8 * down;
      if (t4 == 0) c.to_tokens[to] = tokens, c.to_state[to] = state, c.through_skip[to] = skipped;
    }
  }
  __syncthreads();  // all are done with all heads
  if (at.heads > 0) add_warps(at.heads - 1);

  // Once for all heads: dB += pairs C, dC += pairs^T B.
  fetch_c();
  unsigned char* shared_pairs = memory + kStagesAt + S::kStage;
  uint32_t packed[kWarps][4];
#pragma unroll
  for (int j = 0; j < kWarps; ++j) {
    if (j >= blocks) break;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int half = e / 2, down = e % 2;
      packed[j][e] = pack(sees(j, half, 2 * down) ? pairs[j][half][2 * down] : 0.0f,
                          sees(j, half, 2 * down + 1) ? pairs[j][half][2 * down + 1] : 0.0f);
      *reinterpret_cast<uint32_t*>(shared_pairs + (row0 + 8 * down) * Pairs::kPitch +
                                   ((block + j) * 16 + 8 * half) * 2 + 4 * t4) = packed[j][e];
    }
  }
  wait_copies<0>();
  __syncthreads();
  const uint32_t c_down = stages + Wide::down_first(lane) + block * Wide::at(16, 0);
#pragma unroll
  for (int j = 0; j < kWarps; ++j) {
    if (j >= blocks) break;
#pragma unroll
    for (int i = 0; i < kN / 16; ++i) {
      uint32_t r[4];
      load_matrices_transposed(r, c_down + Wide::at(16 * j, 16 * i));
      mma(sums[2 * i], packed[j], r[0], r[1]);
      mma(sums[2 * i + 1], packed[j], r[2], r[3]);
    }
  }
  store_sums<kN>(sums, c.db_parts, at.part, c, at, block);
#pragma unroll
  for (int i = 0; i < kN / 8; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[i][e] = 0;
  const uint32_t pairs_at =
      stages + S::kStage + Pairs::right_first(lane) + block * Pairs::at(0, 16);
#pragma unroll 1
  for (int k = 0; k <= block; ++k) {
    uint32_t a[4];
    load_matrices_transposed(a, pairs_at + k * Pairs::at(16, 0));
    const uint32_t b_down = base + Wide::down_first(lane) + k * Wide::at(16, 0);
#pragma unroll
    for (int i = 0; i < kN / 16; ++i) {
      uint32_t r[4];
      load_matrices_transposed(r, b_down + Wide::at(0, 16 * i));
      mma(sums[2 * i], a, r[0], r[1]);
      mma(sums[2 * i + 1], a, r[2], r[3]);
    }
  }
  store_sums<kN>(sums, c.dc_parts, c.parts + at.part, c, at, block);
}

template <int kN>
void launch_for(const SsdChunkParams& c, cudaStream_t stream) {
  constexpr uint32_t kBytes = Shape<kN>::kBytes;
  static const bool prepared =
      cudaFuncSetAttribute(sources_kernel<kN>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           kBytes) == cudaSuccess;
  (void)prepared;  // a failure shows at the launch
  const dim3 grid(static_cast<unsigned>(c.of.batch * c.chunks),
                  static_cast<unsigned>(c.groups * c.parts));
  sources_kernel<kN><<<grid, kThreads, kBytes, stream>>>(c);
}

void launch(const SsdChunkParams& c, void* stream) {
  if (c.of.batch == 0) return;
  if (c.d_state == 64)
    launch_for<64>(c, static_cast<cudaStream_t>(stream));
  else
    launch_for<128>(c, static_cast<cudaStream_t>(stream));
}

[[maybe_unused]] const bool registered = [] {
  ssd_sources_cuda.launch = launch;
  return true;
}();

}  // namespace
}  // namespace ceiling
