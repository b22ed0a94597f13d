// Retention's sweep on a CPU. Bound: fused multiply-adds, 4 M N operations per token and head. One
// task owns a head (or some of its columns); the state stays in its cache and passes through
// registers once per block of 8 tokens, in which the tokens read it and are taken in. Both forms
// run on it: a block is a short chunk, and a long chunk would only add work on a CPU.
#include <xmmintrin.h>

#include "modules/ops/cpu_math.h"
#include "modules/ops/retention/kernels.h"

namespace ceiling::CEILING_ISA {

namespace {

typedef float Vector __attribute__((vector_size(4 * kSweepLanes), aligned(4)));

// Decayed states become denormal numbers, which are 10 to 50 times slower; they count as zero here.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

struct Weights {
  float enter[kSweepBlock], leave[kSweepBlock], across;
  float within[kSweepBlock][kSweepBlock];  // [reader][source]
};

// Products of decays inside a block of `r` tokens whose first is `start[0]`; 0 across a document's
// start.
void block_weights(const float* power, const uint8_t* start, int64_t r, bool backward, Weights* w) {
  bool reached = true;  // no start among tokens 0 .. i
  for (int64_t i = 0; i < r; ++i) {
    reached = reached && !(start && start[i]);
    w->enter[i] = reached ? power[i + 1] : 0;
    bool same = true;  // no start in (j, i]
    for (int64_t j = i; j >= 0; --j) {
      const float weight = same ? power[i - j] : 0;
      w->within[backward ? j : i][backward ? i : j] = weight;
      if (i != j) w->within[backward ? i : j][backward ? j : i] = 0;
      if (i == r - 1) w->leave[j] = weight;
      same = same && !(start && start[j]);
    }
  }
  w->across = reached ? power[r] : 0;
  if (!backward) return;
  for (int64_t i = 0; i < r; ++i) {
    const float enter = w->enter[i];
    w->enter[i] = w->leave[i];
    w->leave[i] = enter;
  }
}

template <class T>
void sweep_task(const SweepParams& p, int64_t task) {
  const int64_t split = task % p.column_splits, bh = task / p.column_splits;
  const int64_t b = bh / p.heads, h = bh % p.heads;
  // Columns [first, last) of the value, whole vectors but for the end.
  const int64_t vectors = sweep_columns(p.n) / kSweepLanes;
  const int64_t first = split * vectors / p.column_splits * kSweepLanes;
  const int64_t end_vector = (split + 1) * vectors / p.column_splits * kSweepLanes;
  const int64_t last = end_vector < p.n ? end_vector : p.n;
  const int64_t columns = end_vector - first;  // padded
  const int64_t n_columns = last - first;
  if (n_columns <= 0) return;
  float* state = p.workspace + task * sweep_workspace(p.m, p.n);  // [M, columns]
  float* v = state + p.m * columns;                               // [block, columns]
  float* q = v + kSweepBlock * columns;                           // [M, block]: scaled by enter
  float* k = q + kSweepBlock * p.m;                               // [M, block]: scaled by leave
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < columns; ++j)
      state[i * columns + j] =
          p.state_in && j < n_columns ? p.state_in[(bh * p.m + i) * p.n + first + j] : 0.0f;

  float power[kSweepBlock + 1];
  for (int64_t i = 0; i <= kSweepBlock; ++i)
    power[i] = static_cast<float>(exp(static_cast<double>(i) * p.log_decay[h]));
  const auto row = [&](const SweepRows& rows, int64_t t) {
    return static_cast<const T*>(rows.data) + b * rows.batch_stride + t * rows.time_stride +
           h * rows.head_stride;
  };
  const int64_t blocks = (p.seq_len + kSweepBlock - 1) / kSweepBlock;
  for (int64_t step = 0; step < blocks; ++step) {
    const int64_t block = p.backward ? blocks - 1 - step : step, t0 = block * kSweepBlock;
    const int64_t r = p.seq_len - t0 < kSweepBlock ? p.seq_len - t0 : kSweepBlock;
    Weights w;
    block_weights(power, p.start ? p.start + b * p.seq_len + t0 : nullptr, r, p.backward, &w);

    float score[kSweepBlock][kSweepBlock];
    for (int64_t i = 0; i < r; ++i) {
      const T* qi = row(p.query, t0 + i);
      for (int64_t j = 0; j < r; ++j) {
        const T* kj = row(p.key, t0 + j);
        score[i][j] =
            w.within[i][j] == 0 ? 0 : w.within[i][j] * lane_sum<float>(p.m, [&](int64_t c) {
                                        return load(qi, c) * load(kj, c);
                                      });
      }
    }
    for (int64_t i = 0; i < kSweepBlock; ++i) {
      const bool real = i < r;
      const T *qi = row(p.query, t0 + (real ? i : 0)), *ki = row(p.key, t0 + (real ? i : 0)),
              *vi = row(p.value, t0 + (real ? i : 0));
      const float enter = real ? w.enter[i] : 0, leave = real ? w.leave[i] : 0;
      for (int64_t c = 0; c < p.m; ++c) {
        // A factor of 0 must not turn a foreign infinity into not-a-number.
        q[c * kSweepBlock + i] = enter == 0 ? 0 : enter * load(qi, c);
        k[c * kSweepBlock + i] = leave == 0 ? 0 : leave * load(ki, c);
      }
      for (int64_t c = 0; c < columns; ++c)
        v[i * columns + c] = real && c < n_columns ? load(vi, first + c) : 0.0f;
    }

    for (int64_t c = 0; c < columns; c += kSweepLanes) {
      Vector out[kSweepBlock] = {}, value[kSweepBlock];
      for (int64_t i = 0; i < kSweepBlock; ++i)
        value[i] = *reinterpret_cast<const Vector*>(v + i * columns + c);
      for (int64_t i = 0; i < p.m; ++i) {
        Vector* at = reinterpret_cast<Vector*>(state + i * columns + c);
        const Vector held = *at;
        Vector next = held * w.across;
        const float *qi = q + i * kSweepBlock, *ki = k + i * kSweepBlock;
#pragma GCC unroll 8
        for (int64_t x = 0; x < kSweepBlock; ++x) {
          out[x] += held * qi[x];
          next += value[x] * ki[x];
        }
        *at = next;
      }
      for (int64_t i = 0; i < r; ++i) {
        Vector sum = out[i];
        for (int64_t j = 0; j < r; ++j)
          if (w.within[i][j] != 0) sum += value[j] * score[i][j];
        T* to = static_cast<T*>(p.out) + ((b * p.seq_len + t0 + i) * p.heads + h) * p.n + first + c;
        const int64_t width = n_columns - c < kSweepLanes ? n_columns - c : kSweepLanes;
        for (int64_t lane = 0; lane < width; ++lane) store(to, lane, sum[lane]);
      }
    }
  }
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < n_columns; ++j)
      p.state_out[(bh * p.m + i) * p.n + first + j] = state[i * columns + j];
}

}  // namespace

void retention_sweep(const SweepParams& p, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  for (int64_t task = begin; task < end; ++task) {
    if (p.type == CpuType::kFloat)
      sweep_task<float>(p, task);
    else
      sweep_task<bf16>(p, task);
  }
}

}  // namespace ceiling::CEILING_ISA
