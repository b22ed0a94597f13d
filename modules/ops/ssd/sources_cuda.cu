// The backward of ssd within chunks: what tokens give to later ones, within the chunk and through
// the state after it. sm_90a. README.md has the maths and the design.
// Bound:  HBM: x, dy, dx and the gradients of states once.
// Floor:  0.36 ms for 32,768 tokens x 64 heads x 64, N 128 (1.07 GB at 3.0 TB/s).
// Layout: blocks and warps as in reads_cuda.cu, a warp's tokens being sources. Products with states
//   are those of four warps (wgmma), those of pairs of tokens each warp's own (mma.sync): above the
//   diagonal there are none. What all heads share, B and its products with C, stays on chip, and so
//   do the sums over heads: 16 x N of dB, and the source x reader pairs that B and C are multiplied
//   with once, at the end.
// Limits: P 64, N 64 or 128; one block per SM, for its 250 registers a thread.
#include "modules/ops/ssd/chunk.cuh"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kLeads = kWarps / 2, kTaken = kLeads + 1;  // tiles of readers a warp takes, at most

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
  using State = typename Shape<kN>::State;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kP * State::kPieces / kThreads; ++i) {
    const int piece = i * kThreads + static_cast<int>(threadIdx.x);
    const uint32_t at = State::at(piece / State::kPieces, piece % State::kPieces * 8);
    float left[8], right[8];
    load<8>(reinterpret_cast<const bf16*>(a + at), left);
    load<8>(reinterpret_cast<const bf16*>(b + at), right);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum += left[e] * right[e];
  }
  return sum;
}

// Products of B and C of a tile, a lane's own: halves kWarp apart.
__device__ __forceinline__ float4* scores_of(unsigned char* scores, int source, int reader) {
  const int tile = source * kWarps - source * (source - 1) / 2 + reader - source;
  return reinterpret_cast<float4*>(scores + tile * kScoreTile) + threadIdx.x % kWarp;
}

// Sixteen sources, of which x are the rows, and their sixteen readers dy, a head's.
struct Readers {
  uint32_t dy_right, dy_down;  // of the first of the readers
  const float* decay;          // of these
  const float4* scores;
  float* sums;  // of_tokens, what these sources add
};
// pairs += Delta_s decay(s, l) dy_l . x_s, out += decay(s, l) (B_s . C_l) dy_l
// Where they are the sources themselves, skip is x_s . dy_s, in the lane of row g whose columns
// have it.
__device__ __forceinline__ void take_readers(float (&pairs)[2][4], float (&out)[8][4],
                                             float (&to_tokens)[2], float (&skip)[2],
                                             bool themselves, const uint32_t (&x)[4][4],
                                             const float (&own_decay)[2],
                                             const float (&own_step)[2], const Readers& of) {
  const int lane = threadIdx.x % kWarp, t4 = lane % 4;
  float product[2][4] = {};  // x_s . dy_l
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t r[4];
    load_matrices(r, of.dy_right + Rows::at(0, 16 * k));
    mma(product[0], x[k], r[0], r[1]);
    mma(product[1], x[k], r[2], r[3]);
  }
  const bool odd = lane & 4;  // row g
  if (themselves)
    skip[0] = odd ? product[0][1] : product[0][0], skip[1] = odd ? product[1][3] : product[1][2];
  float column[2][2];
  uint32_t a[4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 four = of.scores[half * kWarp];
    const float score[4] = {four.x, four.y, four.z, four.w};
    const float2 decay = *reinterpret_cast<const float2*>(of.decay + 8 * half + 2 * t4);
    float weighted[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      // Where the source is later, nothing is seen; the power must be finite there.
      const float between = exp2_of(fminf((e % 2 ? decay.y : decay.x) - own_decay[e / 2], 0.0f));
      pairs[half][e] += own_step[e / 2] * (product[half][e] * between);
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
  if (!(lane & 4)) of.sums[lane / 16 * 8 + 2 * t4 + lane / 8 % 2] = sum;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t r[4];
    load_matrices_transposed(r, of.dy_down + Rows::at(0, 16 * i));
    mma(out[2 * i], a, r[0], r[1]);
    mma(out[2 * i + 1], a, r[2], r[3]);
  }
}

template <int kN>
__global__ __launch_bounds__(kThreads,
                             1) void sources_kernel(const __grid_constant__ SsdChunkParams c) {
  using S = Shape<kN>;
  using Wide = typename S::Wide;
  using State = typename S::State;
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ int document[kC];
  __shared__ float pair_sums[2][kWarps][kC];  // of readers, by their sources' block
  __shared__ float passing_sums[2][kWarps];
  __shared__ float lent_tokens[kLeads - 1][16];
  constexpr uint32_t kStagesAt = S::kWideBytes + kScoreBytes;
  const uint32_t base = shared_address(memory), stages = base + kStagesAt;
  // The same in all lanes, for the compiler too.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  // The 16 sources of this warp, its block: readers begin with them. Blocks i and 7 - i together
  // have nine blocks of readers; the warp of i takes the first five of its own, that of 7 - i the
  // other 3 - i for it, and its own. Numbered as it takes them, a warp's own begin with `lent`.
  const int block = warp, lead = warp < kLeads ? warp : kWarps - 1 - warp;
  const int lent = warp < kLeads ? 0 : kLeads - 1 - lead;
  const int taken = warp < kLeads ? kTaken : kTaken - 1;
  const auto source_of = [&](int q) { return q < lent ? lead : block; };
  const auto reader_of = [&](int q) { return q < lent ? lead + kTaken + q : block + q - lent; };
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
    copy_rows<State, kP>(to + S::kState, static_cast<const bf16*>(c.state_grads) + head * kP * kN,
                         kN, kP);
    copy_vector(to + S::kDecay, c.decay + head * kC);
    copy_vector(to + S::kStep, c.step + head * kC);
    if (passing)
      copy_rows<State, kP>(to + S::kBefore, static_cast<const bf16*>(c.states) + head * kP * kN, kN,
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

  // B C^T where a reader sees a source.
  const auto sees = [&](int source_block, int reader_block, int half, int e) {
    const int source = source_block * 16 + 8 * (e / 2) + g,
              reader = reader_block * 16 + 8 * half + 2 * t4 + e % 2;
    return reader >= source && document[reader] == document[source];
  };
#pragma unroll 1
  for (int reader = block; reader < kWarps; ++reader) {
    float score[2][4] = {};
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      uint32_t a[4], r[4];
      load_matrices(a, S::down_first(base, block * 16, 16 * k));
      load_matrices(r, S::right_first(stages, reader * 16, 16 * k));
      mma(score[0], a, r[0], r[1]);
      mma(score[1], a, r[2], r[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* s = score[half];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (!sees(block, reader, half, e)) s[e] = 0;
      scores_of(memory + S::kWideBytes, block, reader)[half * kWarp] =
          make_float4(s[0], s[1], s[2], s[3]);
    }
  }
  __syncthreads();  // all are done with C
  float decay_ahead[2] = {last_decay(0), last_decay(1)};
  if (at.heads > 0) fetch(0, passes(decay_ahead[0]));

  next_is_here();

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
  float pairs[kTaken][2][4] = {};  // sums over heads of Delta_s decay(s, l) dy_l . x_s
  uint4* lent_out =
      reinterpret_cast<uint4*>(memory + kStagesAt + kStages * S::kStage) + lead * 4 * kWarp + lane;
  const int row0 = block * 16 + g;
  const bool in_last[2] = {document[row0] == document[kC - 1],
                           document[row0 + 8] == document[kC - 1]};
  for (int n = 0; n < at.heads; ++n) {
    __syncthreads();  // this head is here, and all are done with the one before
    if (n > 0) add_warps(n - 1);
    if (n + 1 < at.heads) fetch(n + 1, passes(decay_ahead[1]));
    const uint32_t stage_at = n % kStages * S::kStage, stage = stages + stage_at;
    unsigned char* here = memory + kStagesAt + stage_at;
    const float* decay = reinterpret_cast<const float*>(here + S::kDecay);
    const float* step = reinterpret_cast<const float*>(here + S::kStep);
    float passing = 0;
    if (passes(decay_ahead[0]))
      passing =
          exp2_of(decay_ahead[0]) * warp_sum(share_of_dot<kN>(here + S::kState, here + S::kBefore));
    if (lane == 0) passing_sums[n % 2][warp] = passing;
    decay_ahead[0] = decay_ahead[1], decay_ahead[1] = last_decay(n + 2);
    const float d = static_cast<const float*>(c.of.d)[at.first_head + n];
    const auto readers = [&](int source, int reader) -> Readers {
      const uint32_t dy = stage + S::kDy + reader * Rows::at(16, 0);
      return {dy + Rows::right_first(lane), dy + Rows::down_first(lane), decay + reader * 16,
              scores_of(memory + S::kWideBytes, source, reader),
              &pair_sums[n % 2][source][reader * 16]};
    };
    const uint32_t x_lane = stage + Rows::down_first(lane);
    float out[8][4], to_tokens[2] = {0, 0}, skip[2] = {0, 0};
    uint32_t x[4][4];
    if (lent > 0) {
      const int row = lead * 16 + g;
      const float its_decay[2] = {decay[row], decay[row + 8]},
                  its_step[2] = {step[row], step[row + 8]};
#pragma unroll
      for (int k = 0; k < 4; ++k) load_matrices(x[k], x_lane + lead * Rows::at(16, 0) + 32 * k);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[i][e] = 0;
#pragma unroll
      for (int q = 0; q < kLeads - 1; ++q)
        if (q < lent)
          take_readers(pairs[q], out, to_tokens, skip, false, x, its_decay, its_step,
                       readers(lead, lead + kTaken + q));
          // Rounded: half of what dx is rounded by in the end.
#pragma unroll
      for (int i = 0; i < 4; ++i)
        lent_out[i * kWarp] = make_uint4(
            pack(out[2 * i][0], out[2 * i][1]), pack(out[2 * i][2], out[2 * i][3]),
            pack(out[2 * i + 1][0], out[2 * i + 1][1]), pack(out[2 * i + 1][2], out[2 * i + 1][3]));
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        const float tokens = quad_sum(to_tokens[down]);
        if (t4 == 0) lent_tokens[lead][8 * down + g] = tokens;
        to_tokens[down] = 0;
      }
    }
    const float own_decay[2] = {decay[row0], decay[row0 + 8]},
                own_step[2] = {step[row0], step[row0 + 8]};
    float leave[2], weights[2], to_state[2];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      leave[down] = in_last[down] ? exp2_of(decay[kC - 1] - own_decay[down]) : 0.0f;
      weights[down] = leave[down] * own_step[down];
    }
    through_state<kN, 64>(sums, out, x, to_state, base, warp / 4 * 64,
                          x_lane + block * Rows::at(16, 0), stage + S::kState, leave, weights);

#pragma unroll
    for (int q = 0; q < kTaken; ++q)
      if (q >= lent && q < taken)
        take_readers(pairs[q], out, to_tokens, skip, q == lent, x, own_decay, own_step,
                     readers(block, block + q - lent));
    __syncthreads();  // what was lent is there; a barrier of pairs of warps is not seen by
                      // racecheck
    const bool borrows = warp < kLeads - 1;
    if (borrows) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 four = lent_out[i * kWarp];
        const uint32_t packed[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float2 more = both(packed[e]);
          float* o = out[2 * i + e / 2] + 2 * (e % 2);
          o[0] += more.x, o[1] += more.y;
        }
      }
    }

    // dx = Delta out + D dy, by way of x's place, of which no other warp reads these rows.
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        const uint32_t place = Rows::at(block * 16, 8 * i) + (8 * down + g) * Rows::kPitch + 4 * t4;
        const float2 dy = both(*reinterpret_cast<const uint32_t*>(here + S::kDy + place));
        *reinterpret_cast<uint32_t*>(here + place) =
            pack(own_step[down] * out[i][2 * down] + d * dy.x,
                 own_step[down] * out[i][2 * down + 1] + d * dy.y);
      }
    __syncwarp();
    next_is_here();
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
      const float tokens = quad_sum(to_tokens[down]) +
                           (borrows ? lent_tokens[lead][8 * down + g] : 0.0f),
                  state = quad_sum(to_state[down]);
      const int64_t to = at.head(c, n) * kC + row0 + 8 * down;
      if (t4 == 0) c.to_tokens[to] = tokens, c.to_state[to] = state;
      if (t4 == g / 2) c.through_skip[to] = skip[down];
    }
  }
  __syncthreads();  // all are done with all heads
  if (at.heads > 0) add_warps(at.heads - 1);

  // Once for all heads: dB += pairs C, dC += pairs^T B.
  fetch_c();
  unsigned char* shared_pairs = memory + kStagesAt + S::kStage;
#pragma unroll
  for (int q = 0; q < kTaken; ++q) {
    if (q >= taken) break;
    const int source = source_of(q), reader = reader_of(q);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        const float* two = pairs[q][half] + 2 * down;
        *reinterpret_cast<uint32_t*>(shared_pairs + (source * 16 + 8 * down + g) * Pairs::kPitch +
                                     (reader * 16 + 8 * half) * 2 + 4 * t4) =
            pack(sees(source, reader, half, 2 * down) ? two[0] : 0.0f,
                 sees(source, reader, half, 2 * down + 1) ? two[1] : 0.0f);
      }
  }
  wait_copies<0>();
  __syncthreads();
  const uint32_t own_pairs = stages + S::kStage + block * Pairs::at(16, 0);
#pragma unroll 1
  for (int k = block; k < kWarps; ++k) {
    uint32_t a[4];
    load_matrices(a, own_pairs + Pairs::down_first(lane) + k * Pairs::at(0, 16));
#pragma unroll
    for (int i = 0; i < kN / 16; ++i) {
      uint32_t r[4];
      load_matrices_transposed(r, S::down_first(stages, 16 * k, 16 * i));
      mma(sums[2 * i], a, r[0], r[1]);
      mma(sums[2 * i + 1], a, r[2], r[3]);
    }
  }
  store_sums<kN, false>(sums, c.db_parts, static_cast<bf16*>(c.db), c, at, block);
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
#pragma unroll
    for (int i = 0; i < kN / 16; ++i) {
      uint32_t r[4];
      load_matrices_transposed(r, S::down_first(base, 16 * k, 16 * i));
      mma(sums[2 * i], a, r[0], r[1]);
      mma(sums[2 * i + 1], a, r[2], r[3]);
    }
  }
  store_sums<kN, true>(sums, c.dc_parts, static_cast<bf16*>(c.dc), c, at, block);
}

[[maybe_unused]] const bool registered = [] {
  ssd_sources_cuda.launch =
      launch_chunks<sources_kernel<64>, Shape<64>::kBytes, sources_kernel<128>, Shape<128>::kBytes>;
  return true;
}();

}  // namespace
}  // namespace ceiling
