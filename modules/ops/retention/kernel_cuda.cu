// A sweep in chunks of 32 tokens, sm_90a, for the heads that wide_cuda.cu does not take: narrow
// ones, and those whose out gains a value of its own. README.md has the maths.
//
// Bound:  HBM, if all slices of a head's values meet in L2: query, key, value, out once.
// Floor:  0.18 ms for 32,768 tokens x 32 heads x 64/64 (537 MB at 3.0 TB/s).
// Layout: one block per (b, h, slice of value columns) walks through time. Its warps keep the
//   transposed state, 16 value columns x kM (/ kParts) rows each, in registers as float32
//   accumulators; two of their tiles have the layout of a B fragment, so Q S needs no trip through
//   shared memory. Scores are computed once per block and pass through shared memory in bfloat16.
// Limits: fewer than about 132 blocks leave SMs idle: time is then cut into segments, whose states
//   a first pass over key and value finds. Or the states are the result (checkpoints).
#include "modules/ops/retention/chunk.cuh"

namespace ceiling {
namespace {

using namespace gpu;

// kM: width of query and key, rounded up. kSlice: value columns of a block. kC: tokens of a chunk.
// kParts: warps that share the kM state rows of 16 value columns. kStages: chunks in shared memory;
// with one, the other blocks of the SM work while it is filled.
template <int kM_, int kSlice_, int kC_, int kParts_, int kStages_, int kBlocksPerSm_>
struct Shape {
  static constexpr int kM = kM_, kSlice = kSlice_, kC = kC_, kParts = kParts_, kStages = kStages_;
  static constexpr int kBlocksPerSm = kBlocksPerSm_;
  static constexpr int kColumnWarps = kSlice / 16;
  static constexpr int kWarps = kColumnWarps * kParts;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kMPart = kM / kParts;
  using Rows = Tile<kM>;         // of query and key
  using Columns = Tile<kSlice>;  // of value
  using Scores = Tile<kC>;
  static constexpr uint32_t kKey = Rows::at(kC, 0), kValue = 2 * kKey;  // offsets in a stage
  static constexpr uint32_t kStageBytes = kValue + Columns::at(kC, 0);
  static constexpr uint32_t kScoreBytes = Scores::at(kC, 0);
  static constexpr int kPartialPitch = kSlice + 8;  // floats; rows fall into different banks
  static constexpr uint32_t kPartialBytes = (kParts - 1) * kC * kPartialPitch * 4;
  // With one stage the partial sums take the place of the query, which is used up by then.
  static constexpr bool kPartialInQuery = kStages == 1 && kPartialBytes <= kKey;
  static constexpr uint32_t kBytes =
      kStages * kStageBytes + kScoreBytes + (kPartialInQuery ? 0 : kPartialBytes);
  static_assert(kBytes * kBlocksPerSm <= 226 * 1024, "shared memory of an SM");
};

template <class S, bool kBackward, Pass kPass>
__global__ __launch_bounds__(S::kThreads, S::kBlocksPerSm) void chunk_kernel(
    const __grid_constant__ GpuSweepParams p) {
  constexpr bool kOutput = kPass == Pass::kOutput;
  constexpr int kC = S::kC, kWarps = S::kWarps, kMPart = S::kMPart, kBlocks = kC / 16;
  using Rows = typename S::Rows;
  using Columns = typename S::Columns;
  using Scores = typename S::Scores;
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ Weights<kC> weights[2];
  const uint32_t base = shared_address(memory);
  const uint32_t scores = base + S::kStages * S::kStageBytes;
  float* partial = reinterpret_cast<float*>(
      memory + (S::kPartialInQuery ? 0 : S::kStages * S::kStageBytes + S::kScoreBytes));

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  const int column_warp = warp % S::kColumnWarps, part = warp / S::kColumnWarps;
  const int64_t bh = blockIdx.y, b = bh / p.heads, h = bh % p.heads;
  const int64_t first_column = int64_t{blockIdx.x} * S::kSlice;
  const int64_t slice_columns = min(int64_t{S::kSlice}, p.n_dim - first_column);

  const auto of_head = [&](const void* tensor, const GpuSweepStrides& strides) {
    return static_cast<const bf16*>(tensor) + b * strides.batch + h * strides.head;
  };
  const TileCopy<Rows, kC, S::kThreads> copy_query(of_head(p.query, p.query_strides),
                                                   p.query_strides.time),
      copy_key(of_head(p.key, p.key_strides), p.key_strides.time);
  const TileCopy<Columns, kC, S::kThreads> copy_value(
      of_head(p.value, p.value_strides) + first_column, p.value_strides.time);

  const Walk<kC, kBackward> walk(p, kPass == Pass::kSegmentStates ? p.parts_of_segment : 1);
  const int visits = walk.visits;
  const auto stage_of = [&](int visit) {
    return base + static_cast<uint32_t>(visit % S::kStages) * S::kStageBytes;
  };
  const auto fetch = [&](int visit) {
    const int64_t t0 = walk.token_of(visit), tokens = p.seq_len - t0;
    const uint32_t to = stage_of(visit);
    if (kOutput) copy_query(to, t0, tokens, 0, p.m_dim);
    copy_key(to + S::kKey, t0, tokens, 0, p.m_dim);
    copy_value(to + S::kValue, t0, tokens, 0, slice_columns);
    commit_copies();
  };

  // state[i]: value columns g and g + 8 of this warp's 16, rows 8 i + 2 t4 and + 1 of its part.
  float state[kMPart / 8][4];
  const StatePart<kMPart / 8> state_part(p, bh, part * kMPart, p.m_dim - part * kMPart,
                                         first_column + column_warp * 16);
  // A segment's entering state is in its place of segment_states; the first pass starts from zero.
  constexpr bool kFirstPass = kPass == Pass::kSegmentStates;
  const bool entered = p.segments > 1;
  state_part.load(state,
                  kFirstPass ? nullptr
                  : entered  ? p.segment_states
                             : p.state_in,
                  entered ? blockIdx.z : 0, entered && p.entering_transposed);

  if (visits > 0) {
    if (S::kStages > 1) fetch(0);
    if (warp == kWarps - 1) find_weights<kC, kBackward>(weights[0], p, {p, b, h, walk.token_of(0)});
  }
  TokenInputs<kC> inputs(p, b, h, walk.token_of(1));  // of the next chunk
  const uint32_t query_lane = Rows::down_first(lane), key_lane = Rows::right_first(lane);
  const uint32_t part_lane = query_lane + Rows::at(0, part * kMPart);
  const uint32_t value_lane = Columns::right_first(lane) + Columns::at(0, column_warp * 16);
  const uint32_t score_lane = scores + Scores::down_first(lane);
  const int64_t out_stride = p.out_strides.time;
  const int64_t out_first =
      b * p.out_strides.batch + h * p.out_strides.head + first_column + column_warp * 16 + 2 * t4;
  float across_all = 1;
  for (int visit = 0; visit < visits; ++visit) {
    if (S::kStages == 1) {
      __syncthreads();  // all are done with the chunk before
      fetch(visit);
    }
    wait_copies<0>();
    __syncthreads();  // this chunk is here, and all are done with the one before
    if (visit + 1 < visits) {
      if (S::kStages > 1) fetch(visit + 1);
      if (warp == kWarps - 1) {
        find_weights<kC, kBackward>(weights[(visit + 1) % 2], p, inputs);
        inputs = {p, b, h, walk.token_of(visit + 2)};
      }
    }
    const Weights<kC>& w = weights[visit % 2];
    const uint32_t q_tile = stage_of(visit), k_tile = q_tile + S::kKey, v_tile = q_tile + S::kValue;

    if constexpr (kPass == Pass::kCheckpoints) {
      static_assert(S::kParts == 1 && S::kSlice <= S::kStages * kC && kSweepCheckpoint % kC == 0,
                    "each warp has 16 rows of the queries' place, which is unused");
      store_checkpoint<Rows, kC, kBackward>(
          state, memory + warp * 16 / kC * S::kStageBytes + Rows::at(warp * 16 % kC, 0), p, b, h,
          walk.token_of(visit), first_column + column_warp * 16);
    }

    float out[kBlocks][2][4] = {};
    if constexpr (kOutput) {
      // Scores, 16 x 16 at a time: those on or below the diagonal (above, backward in time).
      for (int tile = warp; tile < kBlocks * (kBlocks + 1) / 2; tile += kWarps) {
        const int low = tile >= 6 ? 3 : tile >= 3 ? 2 : tile >= 1 ? 1 : 0;
        const int high = tile - low * (low + 1) / 2;  // high <= low
        const int row_block = kBackward ? high : low, column_block = kBackward ? low : high;
        const uint32_t q_at = q_tile + query_lane + row_block * Rows::at(16, 0),
                       k_at = k_tile + key_lane + column_block * Rows::at(16, 0);
        float score[2][2][4] = {};  // two sums each: shorter chains of products
#pragma unroll
        for (int k = 0; k < S::kM / 16; ++k) {
          uint32_t q[4], kt[4];
          load_matrices(q, q_at + Rows::at(0, 16 * k));
          load_matrices(kt, k_at + Rows::at(0, 16 * k));
          mma(score[k % 2][0], q, kt[0], kt[1]);
          mma(score[k % 2][1], q, kt[2], kt[3]);
        }
#pragma unroll
        for (int down = 0; down < 2; ++down) {
          const int row = row_block * 16 + down * 8 + g;
          const float row_sum = w.sum[row];
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float masked[2];
#pragma unroll
            for (int right = 0; right < 2; ++right) {
              const int column = column_block * 16 + half * 8 + 2 * t4 + right,
                        c = 2 * down + right;
              const float between =
                  kBackward ? w.source[column] - row_sum : row_sum - w.source[column];
              bool seen = kBackward ? column >= row : row >= column;
              if (w.starts)
                seen = seen && (kBackward ? column <= w.reach[row] : column >= w.reach[row]);
              masked[right] =
                  seen ? (score[0][half][c] + score[1][half][c]) * exp2_of(between) : 0.0f;
            }
            const uint32_t to =
                scores + row * Scores::kPitch + (column_block * 16 + half * 8) * 2 + 4 * t4;
            store_shared(to, pack(masked[0], masked[1]));
          }
        }
      }
      // What the entering state gives.
#pragma unroll
      for (int k = 0; k < kMPart / 16; ++k) {
        const uint32_t b00 = pack(state[2 * k][0], state[2 * k][1]),
                       b01 = pack(state[2 * k + 1][0], state[2 * k + 1][1]),
                       b10 = pack(state[2 * k][2], state[2 * k][3]),
                       b11 = pack(state[2 * k + 1][2], state[2 * k + 1][3]);
#pragma unroll
        for (int i = 0; i < kBlocks; ++i) {
          uint32_t q[4];
          load_matrices(q, q_tile + part_lane + Rows::at(i * 16, 16 * k));
          mma(out[i][0], q, b00, b01);
          mma(out[i][1], q, b10, b11);
        }
      }
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        const float upper = w.enter[i * 16 + g], lower = w.enter[i * 16 + g + 8];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          out[i][half][0] *= upper, out[i][half][1] *= upper;
          out[i][half][2] *= lower, out[i][half][3] *= lower;
        }
      }
      __syncthreads();  // the scores are complete
    }

    const float across = w.across;
    across_all *= across;
#pragma unroll
    for (int i = 0; i < kMPart / 8; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) state[i][c] *= across;
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      // 16 tokens' values: as they lie a B fragment of tokens x columns, transposed an A fragment
      // of columns x tokens.
      uint32_t v[4];
      load_matrices_transposed(v, v_tile + value_lane + Columns::at(k * 16, 0));
      if constexpr (kOutput) {
        if (k % S::kParts == part) {
#pragma unroll
          for (int i = 0; i < kBlocks; ++i) {
            if (kBackward ? k < i : k > i) continue;
            uint32_t score[4];
            load_matrices(score, score_lane + Scores::at(i * 16, 16 * k));
            mma(out[i][0], score, v[0], v[2]);
            mma(out[i][1], score, v[1], v[3]);
          }
        }
      }
      const float2 first = *reinterpret_cast<const float2*>(w.leave + k * 16 + 2 * t4),
                   second = *reinterpret_cast<const float2*>(w.leave + k * 16 + 8 + 2 * t4);
      v[0] = scaled(v[0], first.x, first.y);
      v[1] = scaled(v[1], first.x, first.y);
      v[2] = scaled(v[2], second.x, second.y);
      v[3] = scaled(v[3], second.x, second.y);
#pragma unroll
      for (int i = 0; i < kMPart / 16; ++i) {
        uint32_t kt[4];
        load_matrices_transposed(kt, k_tile + part_lane + Rows::at(k * 16, 16 * i));
        mma(state[2 * i], v, kt[0], kt[1]);
        mma(state[2 * i + 1], v, kt[2], kt[3]);
      }
    }

    if constexpr (kOutput) {
      if constexpr (S::kParts > 1) {
        // The parts' sums meet in the first.
        const auto at = [&](int of, int i, int half, int down) {
          return reinterpret_cast<float2*>(
              partial + ((of - 1) * kC + i * 16 + down * 8 + g) * S::kPartialPitch +
              column_warp * 16 + half * 8 + 2 * t4);
        };
        if (part > 0) {
#pragma unroll
          for (int i = 0; i < kBlocks; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
              for (int down = 0; down < 2; ++down)
                *at(part, i, half, down) =
                    make_float2(out[i][half][2 * down], out[i][half][2 * down + 1]);
        }
        __syncthreads();
        if (part == 0) {
#pragma unroll
          for (int other = 1; other < S::kParts; ++other)
#pragma unroll
            for (int i = 0; i < kBlocks; ++i)
#pragma unroll
              for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int down = 0; down < 2; ++down) {
                  const float2 x = *at(other, i, half, down);
                  out[i][half][2 * down] += x.x, out[i][half][2 * down + 1] += x.y;
                }
        }
      }
      if (part == 0) {
        const int64_t tokens = p.seq_len - walk.token_of(visit);
        int64_t row = out_first + (walk.token_of(visit) + g) * out_stride;
        const int columns = static_cast<int>(slice_columns) - column_warp * 16 - 2 * t4;
        const float skip = p.skip ? p.skip[h] : 0.0f;
        const unsigned char* values = memory + (v_tile - base);
#pragma unroll
        for (int i = 0; i < kBlocks; ++i)
#pragma unroll
          for (int down = 0; down < 2; ++down, row += 8 * out_stride) {
            if (i * 16 + down * 8 + g >= tokens) continue;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              if (half * 8 >= columns) continue;
              float left = out[i][half][2 * down], right = out[i][half][2 * down + 1];
              if (p.skip) {
                const float2 value = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(
                    values + Columns::at(i * 16 + down * 8 + g, column_warp * 16 + half * 8) +
                    4 * t4));
                left += skip * value.x, right += skip * value.y;
              }
              const int64_t at = row + half * 8;
              if (p.wide_out)
                *reinterpret_cast<float2*>(static_cast<float*>(p.out) + at) =
                    make_float2(left, right);
              else
                *reinterpret_cast<uint32_t*>(static_cast<bf16*>(p.out) + at) = pack(left, right);
            }
          }
      }
    }
  }

  if (kFirstPass && threadIdx.x == 0 && blockIdx.x == 0)
    p.part_across[int64_t{blockIdx.z} * p.batch * p.heads + bh] = across_all;
  float* state_out = kFirstPass ? p.part_states : p.state_out;
  const bool last = kFirstPass || p.segments == 1 || blockIdx.z + 1 == p.segments;
  if (state_out && last) state_part.store(state, state_out, kFirstPass ? blockIdx.z : 0);
}

// The states that enter the segments, from what their parts add and let pass.
__global__ void enter_kernel(const __grid_constant__ GpuSweepParams p) {
  const int64_t size = p.m_dim * p.n_dim, all = p.batch * p.heads * size;
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= all) return;
  float entering = p.state_in ? p.state_in[at] : 0.0f;
  p.segment_states[at] = entering;
  for (int64_t segment = 1; segment < p.segments; ++segment) {
    for (int64_t i = 0; i < p.parts_of_segment; ++i) {
      const int64_t part = (segment - 1) * p.parts_of_segment + i;
      entering = p.part_states[part * all + at] +
                 p.part_across[part * p.batch * p.heads + at / size] * entering;
    }
    p.segment_states[segment * all + at] = entering;
  }
}

template <class S, bool kBackward, Pass kPass>
void run_kernel(const GpuSweepParams& p, int64_t segments, cudaStream_t stream) {
  constexpr auto kernel = chunk_kernel<S, kBackward, kPass>;
  allow_shared<kernel>(S::kBytes);
  const dim3 grid(static_cast<unsigned>((p.n_dim + S::kSlice - 1) / S::kSlice),
                  static_cast<unsigned>(p.batch * p.heads), static_cast<unsigned>(segments));
  kernel<<<grid, S::kThreads, S::kBytes, stream>>>(p);
}

template <class S, bool kBackward, Pass kPass = Pass::kOutput>
void run_sweep(const GpuSweepParams& p, cudaStream_t stream) {
  if (p.segments > 1 && !p.entering_known) {
    run_kernel<S, kBackward, Pass::kSegmentStates>(p, (p.segments - 1) * p.parts_of_segment,
                                                   stream);
    enter_segments(p, stream);
  }
  run_kernel<S, kBackward, kPass>(p, p.segments, stream);
}

// The shapes that measured best (bench/results/) among slices of 32 to 128, chunks of 32 and 64, 1
// to 4 parts, 1 or 2 stages: what counts is that several warps are ready on each scheduler.
template <bool kBackward>
void run_shape(const GpuSweepParams& p, cudaStream_t stream) {
  const bool narrow = p.slice == (p.m_dim <= 256 ? 64 : 32);
  if (p.checkpoints)
    return p.m_dim <= 64
               ? run_sweep<Shape<64, 64, 32, 1, 2, 4>, kBackward, Pass::kCheckpoints>(p, stream)
               : run_sweep<Shape<128, 64, 32, 1, 2, 4>, kBackward, Pass::kCheckpoints>(p, stream);
  if (p.m_dim <= 64) return run_sweep<Shape<64, 64, 32, 1, 2, 4>, kBackward>(p, stream);
  if (p.m_dim <= 128)
    return narrow ? run_sweep<Shape<128, 64, 32, 1, 2, 4>, kBackward>(p, stream)
                  : run_sweep<Shape<128, 128, 32, 1, 2, 2>, kBackward>(p, stream);
  if (p.m_dim <= 256)
    return narrow ? run_sweep<Shape<256, 64, 32, 1, 1, 3>, kBackward>(p, stream)
                  : run_sweep<Shape<256, 128, 32, 1, 2, 1>, kBackward>(p, stream);
  return narrow ? run_sweep<Shape<512, 32, 32, 2, 1, 3>, kBackward>(p, stream)
                : run_sweep<Shape<512, 64, 32, 2, 2, 1>, kBackward>(p, stream);
}

void launch(const GpuSweepParams& p, void* of_torch) {
  const auto stream = static_cast<cudaStream_t>(of_torch);
  if (p.kernel != SweepKernel::kNarrow)
    wide_sweep(p, stream);
  else if (p.backward)
    run_shape<true>(p, stream);
  else
    run_shape<false>(p, stream);
}

[[maybe_unused]] const bool registered = [] {
  sweep_chunk_cuda.launch = launch;
  return true;
}();

}  // namespace

void gpu::enter_segments(const GpuSweepParams& p, cudaStream_t stream) {
  const int64_t all = p.batch * p.heads * p.m_dim * p.n_dim;
  enter_kernel<<<static_cast<unsigned>((all + 255) / 256), 256, 0, stream>>>(p);
}

}  // namespace ceiling
