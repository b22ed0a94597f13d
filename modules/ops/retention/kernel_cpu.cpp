// Retention's sweep on a CPU. Bound: fused multiply-adds, 4 M N + C (M + N) operations per token
// and head with pieces of C tokens. One task owns a head (or some of its columns) and walks through
// time; the state stays in its cache. Every product runs on one register tile, rows x vectors of
// columns. Pieces end where a document does, so nothing of one document is multiplied into another.
#include <string.h>
#include <xmmintrin.h>

#include "modules/ops/cpu_math.h"
#include "modules/ops/retention/kernels.h"

namespace ceiling::CEILING_ISA {

namespace {

// A tile's sums, a row of the right side and one broadcast number fill the vector registers.
#if defined(__AVX512F__)
constexpr int kWidth = 16, kRows = 8;
#elif defined(__AVX2__)
constexpr int kWidth = 8, kRows = 4;
#else
constexpr int kWidth = 4, kRows = 4;
#endif
constexpr int kVectors = 2;
constexpr int64_t kTile = kVectors * kWidth;  // columns of a tile
static_assert(kSweepColumns % kTile == 0 && kSweepFill % kRows == 0 && kSweepChunk % kWidth == 0);

typedef float Vector __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

inline const Vector& vector_at(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline Vector& vector_at(float* p) { return *reinterpret_cast<Vector*>(p); }

// Decayed states become denormal numbers, which are 10 to 50 times slower; they count as zero here.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

// sum[r][n] += a[r] b[n] for each of `steps` steps: a column of the left side, a row of the right.
template <int R, int N>
inline void accumulate(Vector (&sum)[R][N], const float* a, int64_t a_row, int64_t a_step,
                       const float* b, int64_t b_step, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s, a += a_step, b += b_step) {
    Vector right[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) right[n] = vector_at(b + n * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[r][n] += right[n] * a[r * a_row];
  }
}

template <class T>
inline void store_line(T* to, const float* line, int64_t width) {
  if (width == kTile)
    for (int64_t lane = 0; lane < kTile; ++lane) store(to, lane, line[lane]);
  else
    for (int64_t lane = 0; lane < width; ++lane) store(to, lane, line[lane]);
}

template <int R>
struct RowCount {
  static constexpr int value = R;
};
// body(RowCount<R>(), i) for tiles of rows i .. i + R that cover [0, rows).
template <int R, class Body>
inline void one_tile(int64_t left, int64_t i, const Body& body) {
  if (left >= R)
    body(RowCount<R>(), i);
  else if constexpr (R > 1)
    one_tile<R - 1>(left, i, body);
}
template <class Body>
inline void for_row_tiles(int64_t rows, const Body& body) {
  for (int64_t i = 0; i < rows; i += kRows) one_tile<kRows>(rows - i, i, body);
}

// One head's columns [first, last), in the order in which tokens are visited: i = 0 is the first of
// a piece, whichever way time runs.
template <class T>
class Task {
 public:
  Task(const SweepParams& p, int64_t task) : p_(p) {
    const int64_t split = task % p.column_splits, bh = task / p.column_splits;
    b_ = bh / p.heads, h_ = bh % p.heads;
    const int64_t slabs = filled(p.n, kSweepColumns) / kSweepColumns;
    first_ = split * slabs / p.column_splits * kSweepColumns;
    const int64_t end = (split + 1) * slabs / p.column_splits * kSweepColumns;
    columns_ = end - first_;
    n_columns_ = (end < p.n ? end : p.n) - first_;
    m_ = filled(p.m, kSweepFill);
    state_ = p.workspace;
    value_ = state_ + m_ * columns_;
    query_ = value_ + kSweepChunk * columns_;
    key_ = query_ + kSweepChunk * m_;
    key_across_ = key_ + kSweepChunk * m_;
    score_ = key_across_ + kSweepChunk * m_;
  }

  void run() {
    load_state();
    for (int64_t at = 0; at < p_.seq_len;) {
      if (starts_afresh(at)) clear_state();
      int64_t n = 1;
      while (n < p_.chunk && at + n < p_.seq_len && !starts_afresh(at + n)) ++n;
      if (p_.decay_time_stride != 0 || n != weighted_) find_weights(at, n);
      piece(at, n);
      at += n;
    }
    if (p_.backward && p_.start && start_of(0)) clear_state();
    store_state();
  }

 private:
  bool start_of(int64_t t) const { return p_.start[b_ * p_.seq_len + t]; }
  int64_t token(int64_t i) const { return p_.backward ? p_.seq_len - 1 - i : i; }
  // Whether a document's edge lies between the tokens visited before the i-th and the i-th.
  bool starts_afresh(int64_t i) const {
    if (!p_.start || (p_.backward && i == 0)) return false;
    return start_of(p_.backward ? p_.seq_len - i : i);
  }

  const T* row(const SweepRows& rows, int64_t i) const {
    return static_cast<const T*>(rows.data) + b_ * rows.batch_stride + token(i) * rows.time_stride +
           h_ * rows.head_stride;
  }

  void clear_state() { memset(state_, 0, static_cast<size_t>(m_ * columns_) * sizeof(float)); }

  int64_t state_index(int64_t i) const { return ((b_ * p_.heads + h_) * p_.m + i) * p_.n + first_; }
  void load_state() {
    clear_state();
    if (!p_.state_in) return;
    for (int64_t i = 0; i < p_.m; ++i)
      for (int64_t c = 0; c < n_columns_; ++c)
        state_[i * columns_ + c] = p_.state_in[state_index(i) + c];
  }
  void store_state() const {
    for (int64_t i = 0; i < p_.m; ++i)
      for (int64_t c = 0; c < n_columns_; ++c)
        p_.state_out[state_index(i) + c] = state_[i * columns_ + c];
  }

  double log_decay(int64_t i) const {
    return p_.log_decay[b_ * p_.decay_batch_stride + token(i) * p_.decay_time_stride + h_];
  }
  // Decays of a piece of n tokens. enter: from the state to the i-th token; leave: from there to
  // the next state; within: between tokens i >= j. Forward in time a token's own decay lies before
  // it, backward behind it.
  void find_weights(int64_t at, int64_t n) {
    double sum[kSweepChunk + 1];
    sum[0] = 0;
    for (int64_t i = 0; i < n; ++i) sum[i + 1] = sum[i] + log_decay(at + i);
    const double* own = p_.backward ? sum : sum + 1;
    for (int64_t i = 0; i < n; ++i) {
      enter_[i] = exponential(static_cast<float>(own[i]));
      leave_[i] = exponential(static_cast<float>(sum[n] - own[i]));
      float *within = within_ + i * kSweepChunk, between[kSweepChunk] = {};
      for (int64_t j = 0; j <= i; ++j) between[j] = static_cast<float>(own[i] - own[j]);
      for (int64_t j = 0; j < kSweepChunk; ++j) within[j] = j <= i ? exponential(between[j]) : 0.0f;
    }
    across_ = exponential(static_cast<float>(sum[n]));
    weighted_ = n;
  }

  void piece(int64_t at, int64_t n) {
    load_piece(at, n);
    for_row_tiles(n, [&](auto rows, int64_t i) { scores<decltype(rows)::value>(i); });
    for (int64_t c = 0; c < columns_; c += kTile) {
      for_row_tiles(n, [&](auto rows, int64_t i) { outputs<decltype(rows)::value>(at, i, c); });
      for (int64_t i = 0; i < m_; i += kRows) take_in(i, c, n);
    }
  }

  // query_ [C, M], key_ [M, C], value_ [C, N], key_across_ [C, M] with the decays to the next
  // state.
  void load_piece(int64_t at, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const T *q = row(p_.query, at + i), *k = row(p_.key, at + i);
      const T* v = row(p_.value, at + i) + first_;
      const float leave = leave_[i];
      float *query = query_ + i * m_, *across = key_across_ + i * m_;
      float* value = value_ + i * columns_;
      for (int64_t c = 0; c < p_.m; ++c) query[c] = load(q, c);
      for (int64_t c = 0; c < p_.m; ++c) across[c] = leave * load(k, c);
      for (int64_t c = p_.m; c < m_; ++c) across[c] = 0;
      for (int64_t c = 0; c < p_.m; ++c) key_[c * kSweepChunk + i] = load(k, c);
      for (int64_t c = 0; c < n_columns_; ++c) value[c] = load(v, c);
      for (int64_t c = n_columns_; c < columns_; ++c) value[c] = 0;
    }
  }

  // score_ [C, C] = (query key^T) * within, as far as rows i .. i + R are read.
  template <int R>
  void scores(int64_t i) {
    for (int64_t j = 0; j < i + R; j += kWidth) {
      Vector sum[R][1] = {};
      accumulate(sum, query_ + i * m_, m_, 1, key_ + j, kSweepChunk, p_.m);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
        vector_at(score_ + (i + r) * kSweepChunk + j) =
            sum[r][0] * vector_at(within_ + (i + r) * kSweepChunk + j);
    }
  }

  // Rows i .. i + R of out: enter (query state) + score value, over sources up to the row's own.
  template <int R>
  void outputs(int64_t at, int64_t i, int64_t c) {
    Vector sum[R][kVectors] = {};
    accumulate(sum, query_ + i * m_, m_, 1, state_ + c, columns_, p_.m);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) sum[r][n] *= enter_[i + r];
    const float* score = score_ + i * kSweepChunk;
    accumulate(sum, score, kSweepChunk, 1, value_ + c, columns_, i);
    // The corner: a later token is not even multiplied by 0, which not-a-number would survive.
#pragma GCC unroll 8
    for (int s = 0; s < R; ++s)
#pragma GCC unroll 8
      for (int r = s; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < kVectors; ++n)
          sum[r][n] += vector_at(value_ + (i + s) * columns_ + c + n * kWidth) *
                       score[r * kSweepChunk + i + s];
    const int64_t width = n_columns_ - c < kTile ? n_columns_ - c : kTile;
    for (int r = 0; r < R; ++r) {
      float line[kTile];
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) vector_at(line + n * kWidth) = sum[r][n];
      const int64_t to =
          ((b_ * p_.seq_len + token(at + i + r)) * p_.heads + h_) * p_.n + first_ + c;
      if (p_.wide_out)
        store_line(static_cast<float*>(p_.out) + to, line, width);
      else
        store_line(static_cast<T*>(p_.out) + to, line, width);
    }
  }

  // Rows i .. i + kRows of the state: across state + key^T value.
  void take_in(int64_t i, int64_t c, int64_t n) {
    Vector sum[kRows][kVectors];
    float* state = state_ + i * columns_ + c;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int x = 0; x < kVectors; ++x)
        sum[r][x] = vector_at(state + r * columns_ + x * kWidth) * across_;
    accumulate(sum, key_across_ + i, 1, m_, value_ + c, columns_, n);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int x = 0; x < kVectors; ++x) vector_at(state + r * columns_ + x * kWidth) = sum[r][x];
  }

  const SweepParams& p_;
  int64_t b_, h_, first_, columns_, n_columns_, m_;
  float *state_, *value_, *query_, *key_, *key_across_, *score_;
  int64_t weighted_ = 0;  // tokens of the piece that the weights below are for
  float enter_[kSweepChunk], leave_[kSweepChunk], within_[kSweepChunk * kSweepChunk], across_ = 1;
};

}  // namespace

void retention_sweep(const SweepParams& p, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  for (int64_t task = begin; task < end; ++task) {
    if (p.type == CpuType::kFloat)
      Task<float>(p, task).run();
    else
      Task<bf16>(p, task).run();
  }
}

void retention_decay_terms(const DecayGradientParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t groups = p.heads / p.group;
    const auto row = [&](auto type, const SweepRows& rows, int64_t token, int64_t h) {
      using Element = typename decltype(type)::type;
      return static_cast<const Element*>(rows.data) + token / p.seq_len * rows.batch_stride +
             token % p.seq_len * rows.time_stride + h * rows.head_stride;
    };
    const auto add_up = [&](const SweepRows& rows, int64_t token, int64_t g, void* to) {
      T* sum = static_cast<T*>(to) + (token * groups + g) * p.width;
      for (int64_t i = 0; i < p.width; i += kLanes) {
        const int64_t n = p.width - i < kLanes ? p.width - i : kLanes;
        A lanes[kLanes] = {};
        for (int64_t h = g * p.group; h < (g + 1) * p.group; ++h) {
          const A* d = row(TypeTag<A>(), rows, token, h) + i;
          if (n == kLanes)
            for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += d[lane];
          else
            for (int64_t lane = 0; lane < n; ++lane) lanes[lane] += d[lane];
        }
        for (int64_t lane = 0; lane < n; ++lane) store(sum, i + lane, lanes[lane]);
      }
    };
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t h = 0; h < p.heads; ++h) {
        const T *q = row(tag, p.q, token, h), *k = row(tag, p.k, token, h);
        const A *dq = row(TypeTag<A>(), p.dq, token, h), *dk = row(TypeTag<A>(), p.dk, token, h);
        p.out[token * p.heads + h] = lane_sum<double>(p.width, [&](int64_t i) {
          return static_cast<double>(load(q, i)) * static_cast<double>(dq[i]) -
                 static_cast<double>(load(k, i)) * static_cast<double>(dk[i]);
        });
      }
      for (int64_t g = 0; g < groups; ++g)
        add_up(p.dq, token, g, p.dq_sum), add_up(p.dk, token, g, p.dk_sum);
    }
  });
}

// out_t = sum over u >= t of the terms, within t's document, plus what reaches the end.
void retention_decay_sums(const DecayGradientParams& p, int64_t begin, int64_t end) {
  for (int64_t bh = begin; bh < end; ++bh) {
    const int64_t b = bh / p.heads, h = bh % p.heads;
    double crossing = p.end ? p.end[bh] : 0.0;
    for (int64_t t = p.seq_len - 1; t >= 0; --t) {
      double& at = p.out[(b * p.seq_len + t) * p.heads + h];
      crossing += at;
      // No source lies before the start of a document; the sum there is rounding.
      if ((t == 0 && p.from_zero) || (p.start && p.start[b * p.seq_len + t])) crossing = 0;
      at = crossing;
    }
  }
}

}  // namespace ceiling::CEILING_ISA
