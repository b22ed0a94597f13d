// A sweep in chunks of 64 tokens by the products of warpgroups (wgmma), sm_90a: of heads of more
// than 64 columns, or of two heads of at most 64 that share query and key. README.md has the maths.
//
// Bound:  tensor cores for 256/512, HBM for 128/128.
// Floor:  0.24 ms for 32,768 tokens x 8 heads x 256/512 at 798 TFLOP/s. Per 64 tokens and slice of
//   128 columns: 4.2 MFLOP each to read and to move the state, 2.1 for the scores (again in every
//   slice), 1 for scores times values.
// Layout: one block per (b, h, slice of 128 value columns), or per (b, two heads); where these fill
//   the last round badly, one block per SM, with an equal share of all of them. Two warpgroups keep
//   the transposed state of 64 columns x kM rows each in registers, whose sums have the layout of
//   the left operand of the product that reads them: out^T = state^T query^T + value^T scores^T.
//   Each finds one half of the scores, which meet in shared memory; of two heads, those of its own.
//   A third warpgroup, with few registers, is a chunk or more ahead: its warps copy, and find the
//   weights.
// Limits: kM of at most 256. Wider queries are taken by two launches, of which the second adds to
//   what the first has written, in its type.
#include "modules/ops/cuda/mma.cuh"
#include "modules/ops/cuda/wgmma.cuh"
#include "modules/ops/retention/share.cuh"

namespace ceiling {
namespace {

using namespace gpu;

// Of the rows of the state (columns of query and key), those that one launch takes.
struct Part {
  int64_t first, count;
};

// kM: rows of the state, rounded up. kHeads: of a block; of two each warpgroup has one. kStages:
// chunks in shared memory. Without out there are no queries. kDealt: fewer blocks than streams.
template <int kM_, int kHeads_, Pass kPass_, bool kDealt_ = false>
struct Shape {
  static constexpr Pass kPass = kPass_;
  static constexpr bool kDealt = kDealt_;
  static constexpr bool kOutput = kPass == Pass::kOutput;
  static constexpr int kM = kM_, kHeads = kHeads_,
                       kStages = !kOutput || (kM == 128 && kHeads == 1) ? 4 : 2;
  static constexpr int kC = 64, kSlice = 128;
  static constexpr int kGroup = 4 * kWarp;  // threads of a warpgroup
  static constexpr int kProducts = 2 * kGroup, kThreads = kProducts + kGroup;
  static constexpr int kTeams = 2, kTeam = kGroup / kTeams;  // threads that fill a stage
  static_assert(kStages % kTeams == 0, "a stage is always filled by the same team");
  using Rows = PanelTile<kM, kC>;         // of query and key
  using Columns = PanelTile<kSlice, kC>;  // of value, then of out; a panel for each warpgroup
  using Scores = PanelTile<kC, kC>;
  using Checkpoint = PanelTile<kM, 16>;  // a warp's part
  // Offsets in a stage, and after them all.
  static constexpr uint32_t kKey = kOutput ? Rows::kBytes : 0, kValue = kKey + Rows::kBytes;
  static constexpr uint32_t kStageBytes = kValue + Columns::kBytes;
  static constexpr uint32_t kScores = kStages * kStageBytes;
  static constexpr uint32_t kBefore = kScores + (kOutput ? 2 * kHeads * Scores::kBytes : 0);
  static constexpr uint32_t kCheckpoint = kBefore + (kOutput && kM == 256 ? Columns::kBytes : 0);
  static constexpr uint32_t kWeights =
      kCheckpoint + (kPass == Pass::kCheckpoints ? kProducts / kWarp * Checkpoint::kBytes : 0);
  static constexpr uint32_t kBytes = kWeights + kStages * kHeads * sizeof(Weights<kC>);
  static_assert(kBytes <= 227 * 1024, "shared memory of an SM");
  // Barriers of the block: a stage is full, for one of the warpgroups; a stage is empty; a stretch
  // ends; scores are there, of all or of a warpgroup's own head.
  __device__ static int full(int stage, int group) { return 1 + 2 * stage + group; }
  __device__ static int empty(int stage) { return 1 + 2 * kStages + stage; }
  static constexpr int kStretchEnds = 13;
  __device__ static int scores_met(int group) { return 14 + (kHeads == 2 ? group : 0); }
};

// What all threads of a block know. Visits are counted over all stretches: `done` have been made.
template <class S, bool kBackward>
struct Place {
  Walk<S::kC, kBackward> walk;
  int64_t bh, b, h, slice;  // of two heads, the first
  uint32_t base;            // of shared memory

  __device__ Place(const GpuSweepParams& p, unsigned char* memory, const Stretch& of, int done)
      : walk(Share<S, kBackward>::whole_walk(p)),
        bh(of.heads * S::kHeads),
        b(bh / p.heads),
        h(bh % p.heads),
        slice(of.slice * S::kSlice),
        base(shared_address(memory)),
        weights_(reinterpret_cast<Weights<S::kC>*>(memory + S::kWeights)) {
    if (S::kDealt) walk.keep(of.begin, of.end, done);
  }
  __device__ const bf16* of_head(const void* tensor, const GpuSweepStrides& strides) const {
    return static_cast<const bf16*>(tensor) + b * strides.batch + h * strides.head;
  }
  __device__ Weights<S::kC>& weights(int stage, int head) const {
    return weights_[stage * S::kHeads + head];
  }

 private:
  Weights<S::kC>* weights_;
};

// Copies, by the warpgroup that does not multiply: teams of its warps take stages in turns, as what
// makes a stage visible waits for all that a thread has asked for.
template <class S, bool kBackward>
__device__ void fill_stages(const GpuSweepParams& p, const Part& part,
                            const Place<S, kBackward>& at, int warp, int done) {
  using Panel = PanelTile<64, S::kC>;
  constexpr int kTeamWarps = S::kTeam / kWarp, kOwn = (S::kHeads + kTeamWarps - 1) / kTeamWarps;
  const auto copy = [&](const void* tensor, const GpuSweepStrides& strides, int64_t first) {
    return TileCopy<Panel, S::kC, S::kTeam>(at.of_head(tensor, strides) + first, strides.time);
  };
  const auto copy_query = copy(p.query, p.query_strides, part.first),
             copy_key = copy(p.key, p.key_strides, part.first),
             copy_value = copy(p.value, p.value_strides, at.slice);
  // The weights that this warp finds are those of the heads first_own + i.
  const int first_own = warp % kTeamWarps * kOwn;
  const auto input_of = [&](int own, int visit) {
    const int head = min(first_own + own, S::kHeads - 1);
    return TokenInputs<S::kC>(p, at.b, at.h + head, at.walk.token_of(visit));
  };
  const int first_visit = done + (warp / kTeamWarps + done) % S::kTeams;
  TokenInputs<S::kC> inputs[kOwn];
#pragma unroll
  for (int own = 0; own < kOwn; ++own) inputs[own] = input_of(own, first_visit);
#pragma unroll 1
  for (int visit = first_visit; visit < at.walk.visits; visit += S::kTeams) {
    const int stage = visit % S::kStages;
    const uint32_t to = at.base + stage * S::kStageBytes;
    if (visit >= S::kStages) barrier_wait(S::empty(stage), S::kProducts + S::kTeam);
    const int64_t t0 = at.walk.token_of(visit), tokens = p.seq_len - t0;
#pragma unroll
    for (int panel = 0; panel < S::kM / 64; ++panel) {
      if (S::kOutput)
        copy_query(to + panel * Panel::kPanel, t0, tokens, 64 * panel, part.count - 64 * panel);
      copy_key(to + S::kKey + panel * Panel::kPanel, t0, tokens, 64 * panel,
               part.count - 64 * panel);
    }
#pragma unroll
    for (int panel = 0; panel < S::kSlice / 64; ++panel)
      copy_value(to + S::kValue + panel * Panel::kPanel, t0, tokens,
                 S::kHeads == 2 ? panel * p.value_strides.head : 64 * panel,
                 S::kHeads == 2 ? p.n_dim : p.n_dim - at.slice - 64 * panel);
    commit_copies();
#pragma unroll
    for (int own = 0; own < kOwn; ++own) {
      if (first_own + own >= S::kHeads) break;
      find_weights<S::kC, kBackward, S::kOutput>(at.weights(stage, first_own + own), p,
                                                 inputs[own]);
      inputs[own] = input_of(own, visit + S::kTeams);
    }
    wait_copies<0>();
    publish_to_wgmma();
    for (int group = 0; group < 2; ++group)
      barrier_arrive(S::full(stage, group), S::kGroup + S::kTeam);
  }
}

template <class S, bool kBackward, bool kWide, bool kAdd>
__device__ void multiply(const GpuSweepParams& p, const Part& part, unsigned char* memory,
                         const Place<S, kBackward>& at, const Stretch& of, int warp, int done,
                         int visits_of_block) {
  constexpr bool kOutput = S::kOutput, kFirstPass = S::kPass == Pass::kSegmentStates;
  constexpr int kC = S::kC, kM = S::kM, kSteps = kC / 16;
  constexpr int kBatch = kM == 256 ? 2 : 4, kBatches = kM / 16 / kBatch;  // products at a time
  constexpr int kScoreBlocks = S::kHeads == 2 ? kC / 8 : kC / 16;
  using Rows = typename S::Rows;
  using Columns = typename S::Columns;
  using Scores = typename S::Scores;
  const uint32_t base = at.base;
  const int lane = threadIdx.x % kWarp, t4 = lane % 4;
  const int group = warp / 4, group_warp = warp % 4;
  const int head = S::kHeads == 2 ? group : 0;
  const int64_t first_column =  // of this warp's 16
      at.slice + (S::kHeads == 2 ? group_warp : warp) * 16;

  // Where a lane finds 16 tokens of its warp's values for load_matrices_transposed, and with which
  // it takes part in copies of out: rows of 16 columns.
  const auto value_at = [&](int of_lane) {
    return group * Columns::kPanel +
           Columns::at(of_lane / 16 * 8 + of_lane % 8, group_warp * 16 + of_lane / 8 % 2 * 8);
  };
  const auto out_at = [&](int of_lane) {
    return group * Columns::kPanel + Columns::at(of_lane % 16, group_warp * 16 + of_lane / 16 * 8);
  };
  const auto out_column = [&](int of_lane) { return first_column + of_lane / 16 * 8; };
  const int64_t out_stride = p.out_strides.time;
  const auto out_of = [&](int64_t token) {
    return at.b * p.out_strides.batch + token * out_stride + (at.h + head) * p.out_strides.head;
  };
  // What the launch before has written, for this warp alone.
  const auto fetch_before = [&](int visit) {
    const int64_t t0 = at.walk.token_of(visit) + lane % 16,
                  tokens = visit < at.walk.visits ? p.seq_len - t0 : 0;
    const bf16* from = static_cast<const bf16*>(p.out) + out_of(t0) + out_column(lane);
#pragma unroll
    for (int i = 0; i < kC / 16; ++i)
      copy_async(base + S::kBefore + out_at(lane) + Columns::at(16 * i, 0),
                 from + 16 * i * out_stride, 16 * i < tokens && out_column(lane) < p.n_dim);
    commit_copies();
  };

  float state[kM / 8][4];
  const StatePart<kM / 8> state_part(p, at.bh + head, part.first, part.count, first_column);
  const bool entered = !kFirstPass && p.segments > 1;
  if (S::kDealt && of.begins_within())
    take_state(state, p, warp);
  else
    state_part.load(state,
                    kFirstPass ? nullptr
                    : entered  ? p.segment_states
                               : p.state_in,
                    entered ? blockIdx.z : 0, entered && p.entering_transposed);

  if (kAdd && !kWide) fetch_before(0);
  const float skip = S::kHeads == 2 && p.skip ? p.skip[at.h + head] : 0.0f;
  float across_all = 1;
  // Visits after which a state is noted down; 0: none.
  const int recorded = kOutput && p.recorded_segments > 1
                           ? (of.all + static_cast<int>(p.recorded_segments) - 1) /
                                 static_cast<int>(p.recorded_segments)
                           : 0;
  const int before = of.begin - done;  // from the block's visits to the stream's
  for (int visit = done; visit < at.walk.visits; ++visit) {
    const int stage = visit % S::kStages;
    // The registers are full: what is asked for once in a visit is found anew in each.
    const uint32_t q_tile = forgotten(base + stage * S::kStageBytes), k_tile = q_tile + S::kKey,
                   v_tile = q_tile + S::kValue;
    // Of two, as a warpgroup may be a visit ahead of the other's reading.
    const uint32_t scores = base + S::kScores + (visit % 2 * S::kHeads + head) * Scores::kBytes;
    const Weights<kC>& w = at.weights(stage, head);
    if constexpr (kOutput)
      if (recorded > 0 && (visit + before) % recorded == 0)
        state_part.store(state, p.segment_states, (visit + before) / recorded);
    if constexpr (S::kPass == Pass::kCheckpoints) {
      using Room = typename S::Checkpoint;
      store_checkpoint<Room, kC, kBackward>(state, memory + S::kCheckpoint + warp * Room::kBytes, p,
                                            at.b, at.h + head, at.walk.token_of(visit),
                                            first_column);
    }
    barrier_wait(S::full(stage, group), S::kGroup + S::kTeam);

    const int first_score = S::kHeads == 2 ? 0 : 32 * group;  // of this warpgroup's columns
    // No branch from here to the last wait: across one the compiler would wait for the products.
    float score[kScoreBlocks][4], out[8][4];
    // 16 tokens' values each, as a left operand of columns x tokens.
    uint32_t value[kSteps][4], moved[kSteps][4];
    if constexpr (kOutput) {
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < kM / 16; ++k)
        wgmma(score, Rows::columns(q_tile, 0, 16 * k), Rows::columns(k_tile, first_score, 16 * k),
              k > 0);
      wgmma_commit();
      // What the entering state gives, some of its rows at a time. The first waits say that the
      // state is not in use: without them the compiler adds longer ones.
      uint32_t rows[2][kBatch][4];
#pragma unroll
      for (int batch = 0; batch < kBatches; ++batch) {
        if (batch == 0) wgmma_wait<1>();
        if (batch == 1) wgmma_wait<2>();
        if (batch >= 2) wgmma_wait<1>(), wgmma_used(rows[batch % 2]);
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          const int block = 2 * (batch * kBatch + k);
          const float(&even)[4] = state[block], (&odd)[4] = state[block + 1];
          uint32_t(&to)[4] = rows[batch % 2][k];
          to[0] = pack(even[0], even[1]), to[1] = pack(even[2], even[3]);
          to[2] = pack(odd[0], odd[1]), to[3] = pack(odd[2], odd[3]);
        }
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < kBatch; ++k)
          wgmma(out, rows[batch % 2][k], Rows::columns(q_tile, 0, 16 * (batch * kBatch + k)),
                batch + k > 0);
        wgmma_commit();
      }
      // The rows `row` and row + 8 of the scores, of the columns from `column` on.
      const int now = forgotten(lane), row = group_warp * 16 + now / 4,
                column = first_score + now % 4 * 2;
      const float row_sum[2] = {w.sum[row], w.sum[row + 8]};
      const int reach[2] = {w.reach[row], w.reach[row + 8]};
      float2 source[kScoreBlocks];
#pragma unroll
      for (int i = 0; i < kScoreBlocks; ++i)
        source[i] = *reinterpret_cast<const float2*>(w.source + column + 8 * i);
      wgmma_wait<(kBatches < 2 ? kBatches : 2)>();
      wgmma_arrived(score);
#pragma unroll
      for (int i = 0; i < kScoreBlocks; ++i)
#pragma unroll
        for (int down = 0; down < 2; ++down) {
          // Seen are the columns from reach to the row (backward in time, from the row to reach).
          const int own = row + 8 * down;
          const unsigned seen = kBackward ? reach[down] - own : own - reach[down];
          const auto masked = [&](int right, float of_column) {
            const unsigned distance =
                kBackward ? column + 8 * i + right - own : own - (column + 8 * i + right);
            const float between = kBackward ? of_column - row_sum[down] : row_sum[down] - of_column;
            return distance <= seen ? score[i][2 * down + right] * exp2_of(between) : 0.0f;
          };
          store_shared(scores + Scores::at(own, first_score + 8 * i) + now % 4 * 4,
                       pack(masked(0, source[i].x), masked(1, source[i].y)));
        }
      publish_to_wgmma();
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
        load_matrices_transposed(value[k], v_tile + value_at(now) + Columns::at(16 * k, 0));
      float2 enter[8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        enter[i] = *reinterpret_cast<const float2*>(w.enter + 8 * i + now % 4 * 2);
      wgmma_wait<0>();
      wgmma_arrived(out), wgmma_used(rows[0]), wgmma_used(rows[1]);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        out[i][0] *= enter[i].x, out[i][1] *= enter[i].y;
        out[i][2] *= enter[i].x, out[i][3] *= enter[i].y;
      }
      barrier_wait(S::scores_met(group), S::kProducts / S::kHeads);
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
        wgmma(out, value[k], Scores::columns(scores, 0, 16 * k), true);
      wgmma_commit();
    } else {
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
        load_matrices_transposed(value[k], v_tile + value_at(lane) + Columns::at(16 * k, 0));
    }

    float2 leave[kSteps][2];
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        leave[k][half] = *reinterpret_cast<const float2*>(w.leave + k * 16 + half * 8 + 2 * t4);
    const float across = w.across;
    across_all *= across;
#pragma unroll
    for (int i = 0; i < kM / 8; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) state[i][c] *= across;
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int m = 0; m < 4; ++m)
        moved[k][m] = scaled(value[k][m], leave[k][m / 2].x, leave[k][m / 2].y);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) wgmma_rows(state, moved[k], Rows::rows(k_tile, 16 * k));
    wgmma_commit();

    const int now = forgotten(lane);
    const int64_t t0 = at.walk.token_of(visit), tokens = p.seq_len - t0;
    if constexpr (kOutput && !kWide) {
      wgmma_wait<1>();
      wgmma_arrived(out), wgmma_used(value);
      if constexpr (S::kHeads == 2) {
#pragma unroll
        for (int k = 0; k < kSteps; ++k)
#pragma unroll
          for (int m = 0; m < 4; ++m) {
            const float2 x =
                __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&value[k][m]));
            float(&to)[4] = out[2 * k + m / 2];
            to[m % 2 * 2] += skip * x.x, to[m % 2 * 2 + 1] += skip * x.y;
          }
      }
      if constexpr (kAdd) {
        wait_copies<0>();
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          uint32_t before[4];
          load_matrices_transposed(before,
                                   base + S::kBefore + value_at(now) + Columns::at(16 * i, 0));
#pragma unroll
          for (int m = 0; m < 4; ++m) {  // columns g, g + 8; then the next eight tokens
            const float2 x =
                __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&before[m]));
            float(&to)[4] = out[2 * i + m / 2];
            to[m % 2 * 2] += x.x, to[m % 2 * 2 + 1] += x.y;
          }
        }
        __syncwarp();
        fetch_before(visit + 1);
      }
      // Transposed in the place of this warp's values, which only it has read.
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const float(&even)[4] = out[2 * i], (&odd)[4] = out[2 * i + 1];
        store_matrices_transposed(v_tile + value_at(now) + Columns::at(16 * i, 0),
                                  {pack(even[0], even[1]), pack(even[2], even[3]),
                                   pack(odd[0], odd[1]), pack(odd[2], odd[3])});
      }
      __syncwarp();
      bf16* to = static_cast<bf16*>(p.out) + out_of(t0 + now % 16) + out_column(now);
      const unsigned char* from = memory + (v_tile - base) + out_at(now);
      uint4 row[kC / 16];
#pragma unroll
      for (int i = 0; i < kC / 16; ++i)
        row[i] = *reinterpret_cast<const uint4*>(from + Columns::at(16 * i, 0));
#pragma unroll
      for (int i = 0; i < kC / 16; ++i)
        store_if(now % 16 + 16 * i < tokens && out_column(now) < p.n_dim, to + 16 * i * out_stride,
                 row[i]);
    }
    wgmma_wait<0>();
    wgmma_arrived(state), wgmma_used(moved);
    if constexpr (kOutput && kWide) {
      wgmma_arrived(out), wgmma_used(value);
      float* to = static_cast<float*>(p.out) + out_of(t0 + now % 4 * 2) + first_column + now / 4;
#pragma unroll
      for (int i = 0; i < 8; ++i, to += 8 * out_stride)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (8 * i + now % 4 * 2 + (c & 1) >= tokens ||
              first_column + now / 4 + (c & 2) * 4 >= p.n_dim)
            continue;
          float& element = to[(c & 1) * out_stride + (c & 2) * 4];
          element = kAdd ? element + out[i][c] : out[i][c];
        }
    }
    if (visit + S::kStages < visits_of_block)
      barrier_arrive(S::empty(stage), S::kProducts + S::kTeam);
  }

  if (kFirstPass && threadIdx.x % S::kGroup == 0 && blockIdx.x == 0)
    p.part_across[int64_t{blockIdx.z} * p.batch * p.heads + at.bh + head] = across_all;
  float* state_out = kFirstPass ? p.part_states : p.state_out;
  const bool last = kFirstPass || p.segments == 1 || blockIdx.z + 1 == p.segments;
  // Arrivals at `empty` are what orders reads of a stage before its next copies. racecheck does not
  // see the last one of a stretch, unless a barrier follows; this one costs nothing.
  if (S::kDealt) barrier_wait(S::kStretchEnds, S::kProducts);
  if (S::kDealt && of.ends_within())
    hand_on_state(state, p, warp);
  else if (state_out && last)
    state_part.store(state, state_out, kFirstPass ? blockIdx.z : 0);
}

template <class S, bool kBackward, bool kWide, bool kAdd>
__global__ __launch_bounds__(S::kThreads,
                             1) void wide_kernel(const __grid_constant__ GpuSweepParams p,
                                                 const __grid_constant__ Part part) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const Share<S, kBackward> share(p);
  // The same in all lanes, for the compiler too.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  if (warp >= S::kProducts / kWarp) {
    give_registers<40>();
#pragma unroll 1
    for (int i = 0, done = 0; i < share.count(); ++i) {
      const Place<S, kBackward> at(p, memory, share.stretch(p, i), done);
      fill_stages<S, kBackward>(p, part, at, warp - S::kProducts / kWarp, done);
      done = at.walk.visits;
    }
  } else {
    take_registers<232>();
#pragma unroll 1
    for (int i = 0, done = 0; i < share.count(); ++i) {
      const Stretch of = share.stretch(p, i);
      const Place<S, kBackward> at(p, memory, of, done);
      multiply<S, kBackward, kWide, kAdd>(p, part, memory, at, of, warp, done, share.visits());
      done = at.walk.visits;
    }
  }
}

template <class S, bool kBackward, bool kWide = false, bool kAdd = false>
void run_kernel(const GpuSweepParams& p, const Part& part, int64_t segments, cudaStream_t stream) {
  constexpr auto kernel = wide_kernel<S, kBackward, kWide, kAdd>;
  static_assert(S::kProducts == kHandingWarps * kWarp);
  allow_shared<kernel>(S::kBytes);
  if (S::kDealt) {
    kernel<<<static_cast<unsigned>(p.dealt_blocks), S::kThreads, S::kBytes, stream>>>(p, part);
    return;
  }
  const dim3 grid(static_cast<unsigned>((p.n_dim + S::kSlice - 1) / S::kSlice),
                  static_cast<unsigned>(p.batch * p.heads / S::kHeads),
                  static_cast<unsigned>(segments));
  kernel<<<grid, S::kThreads, S::kBytes, stream>>>(p, part);
}

template <int kM, bool kBackward, bool kWide>
void run_output(const GpuSweepParams& p, const Part& low, const Part& high, cudaStream_t stream) {
  using S = Shape<kM, 1, Pass::kOutput>;
  if constexpr (!kWide)
    if (p.dealt_blocks > 0)
      return run_kernel<Shape<kM, 1, Pass::kOutput, true>, kBackward>(p, low, 1, stream);
  run_kernel<S, kBackward, kWide, false>(p, low, p.segments, stream);
  if constexpr (kM == 256)
    if (high.count > 0) run_kernel<S, kBackward, kWide, true>(p, high, p.segments, stream);
}

// What a sweep needs to begin with: the states that enter its segments.
template <int kM, int kHeads, bool kBackward>
void find_entering(const GpuSweepParams& p, const Part& low, const Part& high,
                   cudaStream_t stream) {
  if (p.segments == 1 || p.entering_known) return;
  for (const Part& part : {low, high})
    if (part.count > 0)
      run_kernel<Shape<kM, kHeads, Pass::kSegmentStates>, kBackward>(
          p, part, (p.segments - 1) * p.parts_of_segment, stream);
  enter_segments(p, stream);
}

template <int kM, bool kBackward>
void run_sweep(const GpuSweepParams& p, cudaStream_t stream) {
  const Part low{0, min(p.m_dim, int64_t{kM})}, high{low.count, p.m_dim - low.count};
  find_entering<kM, 1, kBackward>(p, low, high, stream);
  if (p.wide_out)
    run_output<kM, kBackward, true>(p, low, high, stream);
  else
    run_output<kM, kBackward, false>(p, low, high, stream);
}

template <bool kBackward>
void run_pairs(const GpuSweepParams& p, cudaStream_t stream) {
  constexpr int kM = 128;
  const Part all{0, p.m_dim};
  find_entering<kM, 2, kBackward>(p, all, {}, stream);
  if (p.checkpoints)
    run_kernel<Shape<kM, 2, Pass::kCheckpoints>, kBackward>(p, all, p.segments, stream);
  else
    run_kernel<Shape<kM, 2, Pass::kOutput>, kBackward>(p, all, p.segments, stream);
}

template <bool kBackward>
void run_shape(const GpuSweepParams& p, cudaStream_t stream) {
  if (p.kernel == SweepKernel::kPairs) return run_pairs<kBackward>(p, stream);
  if (p.m_dim <= 128) return run_sweep<128, kBackward>(p, stream);
  run_sweep<256, kBackward>(p, stream);
}

}  // namespace

void gpu::wide_sweep(const GpuSweepParams& p, cudaStream_t stream) {
  if (p.backward)
    run_shape<true>(p, stream);
  else
    run_shape<false>(p, stream);
}

}  // namespace ceiling
