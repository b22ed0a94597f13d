// Causal attention on a CPU. Bound: multiply-adds, 4 K per query and key seen forward, 10 K
// backward; with AMX the exponentials.
// Layout: scores are held as [keys, rows], so that every statistic of a row (largest score, sum,
// log-sum-exp) is a vector over neighbouring rows and nothing is summed across a register. All
// products are left [M, K] times right [K, N] (products_cpu.h): S^T = K Q^T, O^T += V^T P^T,
// dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T.
#include <string.h>

#include "modules/ops/causal_attention/kernels.h"
#include "modules/ops/causal_attention/products_cpu.h"
#include "modules/ops/cpu_math.h"

namespace ceiling::CEILING_ISA {

namespace {

constexpr int64_t kBlock = kAttentionBlock;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// A workspace, handed out in order.
class Arena {
 public:
  explicit Arena(void* base) : next_(static_cast<char*>(base)) {}
  template <class U>
  U* take(int64_t n) {
    U* taken = reinterpret_cast<U*>(next_);
    next_ += (n * static_cast<int64_t>(sizeof(U)) + 63) / 64 * 64;
    return taken;
  }

 private:
  char* next_;
};

// So few rows that packing the keys would cost more than it saves.
constexpr int64_t kFewRows = 8;

// One key head of one sequence. T: storage; Product: one of the above.
template <class T, class Product>
class Head {
 public:
  using E = typename Product::Element;
  using A = typename Product::Sum;
  static constexpr int64_t kPair = Product::kPair;

  Head(const CausalAttentionParams& p, int64_t bh)
      : p_(p),
        b_(bh / p.kv_heads),
        h_(bh % p.kv_heads),
        rows_(p.seq_len * p.group),
        cached_(p.n_keys - p.seq_len),
        width_(attention_filled(p.head_dim)),
        lse_(static_cast<A*>(p.lse) + bh * rows_),
        scale_(static_cast<A>(p.scale)) {}

 protected:
  struct Rows {  // a block of them
    int64_t first, n, lanes;
  };
  Rows rows_of(int64_t block) const {
    const int64_t first = block * kBlock, n = least(kBlock, rows_ - first);
    return {first, n, attention_filled(n)};
  }
  int64_t row_blocks() const { return (rows_ + kBlock - 1) / kBlock; }
  int64_t token(int64_t row) const { return row / p_.group; }
  int64_t first_key(int64_t row) const {
    return p_.first_key ? p_.first_key[b_ * p_.seq_len + token(row)] : 0;
  }
  int64_t keys_end(int64_t row) const { return cached_ + token(row) + 1; }

  const T* row(const AttentionRows& x, int64_t r) const { return row_of(x, r); }
  T* row_of(const AttentionRows& x, int64_t r) const {
    return static_cast<T*>(x.data) + b_ * x.batch_stride + token(r) * x.time_stride +
           (h_ * p_.group + r % p_.group) * x.head_stride;
  }
  T* key_row(const AttentionRows& x, int64_t j) const {
    return static_cast<T*>(x.data) + b_ * x.batch_stride + j * x.time_stride + h_ * x.head_stride;
  }

  // Which keys the rows of a block see, counted from `key`; all of `n_keys` unless `masked`.
  struct Sight {
    bool masked;
    int first[kBlock], end[kBlock];
  };
  void look(const Rows& rows, int64_t key, int64_t n_keys, Sight& sight) const {
    const int64_t last = rows.first + rows.n - 1;
    sight.masked = first_key(last) > key || keys_end(rows.first) < key + n_keys;
    if (!sight.masked) return;
    for (int64_t r = 0; r < rows.lanes; ++r) {
      const bool real = r < rows.n;
      sight.first[r] = real ? static_cast<int>(first_key(rows.first + r) - key) : 0;
      sight.end[r] = real ? static_cast<int>(keys_end(rows.first + r) - key) : 0;
    }
  }

  // Into products: n rows of head_dim numbers, `source(i)` the i-th, filled up with zeros.
  // A left side [filled n, width].
  template <class Source>
  void pack_left(int64_t n, const Source& source, E* to) const {
    const int64_t filled = attention_filled(n);
    for (int64_t i = 0; i < n; ++i, to += width_) {
      const T* from = source(i);
      if constexpr (sizeof(E) == sizeof(T))
        memcpy(to, from, static_cast<size_t>(p_.head_dim) * sizeof(E));
      else
        for (int64_t d = 0; d < p_.head_dim; ++d) to[d] = load(from, d);
      for (int64_t d = p_.head_dim; d < width_; ++d) to[d] = 0;
    }
    memset(to, 0, static_cast<size_t>((filled - n) * width_) * sizeof(E));
  }
  // Other forms of a packed left side of n rows. A right side [width, filled n]:
  void right_across(int64_t n, const E* left, E* to) const {
    const int64_t filled = attention_filled(n);
    if constexpr (kPair == 1)
      transpose(filled, width_, left, to);
    else
      transpose_words(filled, width_ / 2, left, to);
  }
  // A right side [filled n, width]; `to` is used for pairs only.
  const E* right_down(int64_t n, const E* left, E* to) const {
    if constexpr (kPair == 1) return left;
    uint32_t* pairs = reinterpret_cast<uint32_t*>(to);
    for (int64_t i = 0; i < attention_filled(n); i += 2, left += 2 * width_, pairs += width_)
#pragma GCC ivdep
      for (int64_t d = 0; d < width_; ++d)
        pairs[d] = static_cast<uint32_t>(left[d]) | static_cast<uint32_t>(left[width_ + d]) << 16;
    return to;
  }
  // A left side [width, filled n]; `to` and `scratch`, as large as the left side, are used for
  // pairs only.
  Left<E> left_across(int64_t n, const E* left, E* scratch, E* to) const {
    if constexpr (kPair == 1) return {left, 1, width_};
    const int64_t filled = attention_filled(n);
    transpose_words(filled, width_ / 2, left, scratch);
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(scratch);
    for (int64_t d = 0; d < width_; d += 2, pairs += filled) {
      E *even = to + d * filled, *odd = even + filled;
#pragma GCC ivdep
      for (int64_t i = 0; i < filled; ++i) {
        even[i] = static_cast<E>(pairs[i]);
        odd[i] = static_cast<E>(pairs[i] >> 16);
      }
    }
    return {to, filled, 1};
  }

  const CausalAttentionParams& p_;
  const int64_t b_, h_, rows_, cached_, width_;
  A* const lse_;
  const A scale_;
};

// Blocks of rows, each over the blocks of keys it sees, with a running maximum and sum.
template <class T, class Product>
class Forward : Head<T, Product> {
  using Base = Head<T, Product>;
  using Base::p_, Base::width_, Base::scale_, Base::kPair;
  using typename Base::A;
  using typename Base::E;
  using typename Base::Rows;
  using typename Base::Sight;

 public:
  Forward(const CausalAttentionParams& p, int64_t task) : Base(p, task / p.splits) {
    Arena arena(p.workspace);
    plan(arena);
    split_ = task % p.splits;
  }

  void run() {
    const int64_t blocks = this->row_blocks();
    if (split_ >= blocks) return;
    if (this->rows_ <= kFewRows) {
      for (int64_t r = 0; r < this->rows_; ++r) alone(r);
      return;
    }
    pack_keys(this->rows_of(split_), this->rows_of(blocks - 1 - (blocks - 1 - split_) % p_.splits));
    for (int64_t block = split_; block < blocks; block += p_.splits) one(this->rows_of(block));
  }

 private:
  void plan(Arena& arena) {
    const int64_t keys = attention_filled(p_.n_keys);
    key_ = arena.take<E>(keys * width_);
    value_ = arena.take<E>(keys * width_);
    if (kPair > 1) value_across_ = arena.take<E>(keys * width_);
    query_ = arena.take<E>(kBlock * width_);
    query_across_ = arena.take<E>(kBlock * width_);
    score_ = arena.take<A>(kBlock * kBlock);
    if (kPair > 1) weight_ = arena.take<E>(kBlock * kBlock);
    sum_ = arena.take<A>(kBlock * width_);
    out_ = arena.take<A>(kBlock * width_);
  }

  void pack_keys(const Rows& first, const Rows& last) {
    const int64_t end = this->keys_end(last.first + last.n - 1);
    for (int64_t key = this->first_key(first.first) / kBlock * kBlock; key < end; key += kBlock) {
      const int64_t n = least(kBlock, p_.n_keys - key);
      this->pack_left(
          n, [&](int64_t i) { return this->key_row(p_.k, key + i); }, key_ + key * width_);
      this->pack_left(
          n, [&](int64_t i) { return this->key_row(p_.v, key + i); }, value_ + key * width_);
      if constexpr (kPair > 1)
        this->left_across(n, value_ + key * width_, query_, value_across_ + key * width_);
    }
  }
  Left<E> value_across(int64_t key, int64_t filled) const {
    if constexpr (kPair == 1) return {value_ + key * width_, 1, width_};
    return {value_across_ + key * width_, filled, 1};
  }

  void one(const Rows& rows) {
    this->pack_left(
        rows.n, [&](int64_t i) { return this->row(p_.q, rows.first + i); }, query_);
    this->right_across(rows.n, query_, query_across_);
    for (int64_t r = 0; r < rows.lanes; ++r) largest_[r] = A(-1e30), total_[r] = 0;
    memset(sum_, 0, static_cast<size_t>(rows.lanes * width_) * sizeof(A));
    const int64_t end = this->keys_end(rows.first + rows.n - 1);
    for (int64_t key = this->first_key(rows.first) / kBlock * kBlock; key < end; key += kBlock) {
      const int64_t filled = attention_filled(least(kBlock, p_.n_keys - key));
      Product::multiply(filled, rows.lanes, width_, {key_ + key * width_, width_, 1}, query_across_,
                        rows.lanes, score_, false);
      this->look(rows, key, filled, sight_);
      if (sight_.masked)
        weigh<true>(rows.lanes, filled);
      else
        weigh<false>(rows.lanes, filled);
      const E* weight;
      if constexpr (kPair == 1)
        weight = score_;
      else
        weight = weight_;
      Product::multiply(width_, rows.lanes, filled, value_across(key, filled), weight, rows.lanes,
                        sum_, true);
    }
    put(rows);
  }

  // Scores become weights relative to the rows' largest score so far; what was summed with an
  // earlier one is scaled down.
  template <bool kMasked>
  [[gnu::noinline]] void weigh(int64_t lanes, int64_t keys) {
    A largest[kBlock], shrink[kBlock];
    memcpy(largest, largest_, sizeof largest);
    const A scale = scale_;
    for (int64_t c = 0; c < keys; ++c) {
      A* score = score_ + c * lanes;
      const int key = static_cast<int>(c);
#pragma GCC ivdep
      for (int64_t r = 0; r < lanes; ++r) {
        A s = scale * score[r];
        if (kMasked) s = (key >= sight_.first[r]) & (key < sight_.end[r]) ? s : A(-1e30);
        score[r] = s;
        largest[r] = s > largest[r] ? s : largest[r];
      }
    }
    bool same = true;
    for (int64_t r = 0; r < lanes; ++r) same &= largest_[r] == largest[r];
    if (!same) {
#pragma GCC ivdep
      for (int64_t r = 0; r < lanes; ++r) {
        shrink[r] = exponential(largest_[r] - largest[r]);
        total_[r] *= shrink[r];
        largest_[r] = largest[r];
      }
      for (int64_t d = 0; d < width_; ++d)
#pragma GCC ivdep
        for (int64_t r = 0; r < lanes; ++r) sum_[d * lanes + r] *= shrink[r];
    }
    // A row that saw nothing yet has -1e30 everywhere: exp(0) is not its weight.
    const auto weight = [&](A s, int64_t r) {
      const A e = exponential(s - largest[r]);
      return kMasked && s <= A(-1e30) ? A(0) : e;
    };
    for (int64_t c = 0; c < keys; c += kPair) {
      A* score = score_ + c * lanes;
      if constexpr (kPair == 1) {
#pragma GCC ivdep
        for (int64_t r = 0; r < lanes; ++r) {
          score[r] = weight(score[r], r);
          total_[r] += score[r];
        }
      } else {
        uint32_t* out = reinterpret_cast<uint32_t*>(weight_) + c / 2 * lanes;
#pragma GCC ivdep
        for (int64_t r = 0; r < lanes; ++r) {
          const A one = weight(score[r], r), two = weight(score[lanes + r], r);
          total_[r] += one + two;
          out[r] = rounded(one) | rounded(two) << 16;
        }
      }
    }
  }

  void put(const Rows& rows) {
    transpose(width_, rows.lanes, sum_, out_);
    for (int64_t r = 0; r < rows.n; ++r) {
      const A factor = A(1) / total_[r];
      this->lse_[rows.first + r] = largest_[r] + static_cast<A>(log(total_[r]));
      T* out = this->row_of(p_.out, rows.first + r);
      for (int64_t d = 0; d < p_.head_dim; ++d) store(out, d, factor * out_[r * width_ + d]);
    }
  }

  // A row by itself: decoding reads each key and value once, as they are.
  void alone(int64_t r) {
    const int64_t first = this->first_key(r), n = this->keys_end(r) - first, dim = p_.head_dim;
    const T* q = this->row(p_.q, r);
    A *query = sum_, *out = out_, *score = reinterpret_cast<A*>(value_);
    for (int64_t d = 0; d < dim; ++d) query[d] = scale_ * load(q, d), out[d] = 0;
    for (int64_t j = 0; j < n; ++j) {
      const T* k = this->key_row(p_.k, first + j);
      A lanes[kLanes] = {};
      int64_t d = 0;
      for (; d + kLanes <= dim; d += kLanes)
        for (int lane = 0; lane < kLanes; ++lane)
          lanes[lane] += query[d + lane] * load(k, d + lane);
      for (int lane = 0; d + lane < dim; ++lane) lanes[lane] += query[d + lane] * load(k, d + lane);
      for (int half = kLanes / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
      score[j] = lanes[0];
    }
    const A largest = lane_max<A>(n, A(-1e30), [&](int64_t j) { return score[j]; });
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) score[j] = exponential(score[j] - largest);
    const A total = lane_sum<A>(n, [&](int64_t j) { return score[j]; });
    for (int64_t j = 0; j < n; ++j) {
      const T* v = this->key_row(p_.v, first + j);
      const A weight = score[j];
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) out[d] += weight * load(v, d);
    }
    this->lse_[r] = largest + static_cast<A>(log(total));
    T* to = this->row_of(p_.out, r);
    for (int64_t d = 0; d < dim; ++d) store(to, d, out[d] / total);
  }

  int64_t split_ = 0;
  E *key_, *value_, *value_across_, *query_, *query_across_, *weight_;
  A *score_, *sum_, *out_;
  A largest_[kBlock], total_[kBlock];
  Sight sight_;
};

// Blocks of keys, each over the blocks of rows that see it; a row's gradient grows in the
// workspace.
template <class T, class Product>
class Backward : Head<T, Product> {
  using Base = Head<T, Product>;
  using Base::p_, Base::width_, Base::scale_, Base::kPair;
  using typename Base::A;
  using typename Base::E;
  using typename Base::Rows;
  using typename Base::Sight;

 public:
  Backward(const CausalAttentionParams& p, int64_t task) : Base(p, task) {
    Arena arena(p.workspace);
    plan(arena);
  }

  void run() {
    const int64_t blocks = this->row_blocks();
    for (int64_t block = 0; block < blocks; ++block) pack_rows(this->rows_of(block));
    for (int64_t key = 0; key < p_.n_keys; key += kBlock) one(key, blocks);
    for (int64_t block = 0; block < blocks; ++block) put_rows(this->rows_of(block));
  }

 private:
  void plan(Arena& arena) {
    const int64_t rows = attention_filled(this->rows_);
    query_across_ = arena.take<E>(rows * width_);
    query_ = arena.take<E>(rows * width_);
    dout_across_ = arena.take<E>(rows * width_);
    dout_ = arena.take<E>(rows * width_);
    dquery_ = arena.take<A>(rows * width_);
    lse_filled_ = arena.take<A>(rows);
    delta_ = arena.take<A>(rows);
    key_ = arena.take<E>(kBlock * width_);
    value_ = arena.take<E>(kBlock * width_);
    if (kPair > 1) {
      key_across_ = arena.take<E>(kBlock * width_);
      scratch_ = arena.take<E>(kBlock * width_);
    }
    out_ = arena.take<A>(kBlock * width_);
    dkey_ = arena.take<A>(kBlock * width_);
    dvalue_ = arena.take<A>(kBlock * width_);
    score_ = arena.take<A>(kBlock * kBlock);
    dscore_ = arena.take<A>(kBlock * kBlock);
    if (kPair > 1) {
      weight_ = arena.take<E>(kBlock * kBlock);
      dweight_ = arena.take<E>(kBlock * kBlock);
      dweight_pairs_ = arena.take<E>(kBlock * kBlock);
    }
  }

  void pack_rows(const Rows& rows) {
    const int64_t at = rows.first * width_;
    const auto q = [&](int64_t i) { return this->row(p_.q, rows.first + i); };
    const auto dout = [&](int64_t i) { return this->row(p_.dout, rows.first + i); };
    pack_both(rows.n, q, query_across_ + at, query_ + at);
    pack_both(rows.n, dout, dout_across_ + at, dout_ + at);
    memset(dquery_ + at, 0, static_cast<size_t>(rows.lanes * width_) * sizeof(A));
    for (int64_t r = rows.first; r < rows.first + rows.lanes; ++r) {
      // A row that only fills a register weighs nothing.
      lse_filled_[r] = A(1e30), delta_[r] = 0;
      if (r >= rows.first + rows.n) continue;
      lse_filled_[r] = this->lse_[r];
      const T *o = this->row(p_.out, r), *d = this->row(p_.dout, r);
      delta_[r] = lane_sum<A>(p_.head_dim, [&](int64_t i) { return load(o, i) * load(d, i); });
    }
  }

  template <class Source>
  void pack_both(int64_t n, const Source& source, E* across, E* down) {
    E* left = kPair == 1 ? down : scratch_;
    this->pack_left(n, source, left);
    this->right_across(n, left, across);
    this->right_down(n, left, down);
  }

  void one(int64_t key, int64_t blocks) {
    const int64_t n = least(kBlock, p_.n_keys - key), filled = attention_filled(n);
    this->pack_left(
        n, [&](int64_t i) { return this->key_row(p_.k, key + i); }, key_);
    this->pack_left(
        n, [&](int64_t i) { return this->key_row(p_.v, key + i); }, value_);
    const Left<E> key_across = this->left_across(n, key_, scratch_, key_across_);
    memset(dkey_, 0, static_cast<size_t>(filled * width_) * sizeof(A));
    memset(dvalue_, 0, static_cast<size_t>(filled * width_) * sizeof(A));
    const int64_t first = most(0, key - this->cached_) * p_.group / kBlock;
    for (int64_t block = first; block < blocks; ++block) {
      const Rows rows = this->rows_of(block);
      if (this->first_key(rows.first) >= key + n) break;
      if (this->keys_end(rows.first + rows.n - 1) <= key) continue;
      const int64_t at = rows.first * width_, lanes = rows.lanes;
      Product::multiply(filled, lanes, width_, {key_, width_, 1}, query_across_ + at, lanes, score_,
                        false);
      Product::multiply(filled, lanes, width_, {value_, width_, 1}, dout_across_ + at, lanes,
                        dscore_, false);
      this->look(rows, key, filled, sight_);
      if (sight_.masked)
        weigh<true>(rows, filled);
      else
        weigh<false>(rows, filled);
      const E *weight, *dweight, *right;
      if constexpr (kPair == 1)
        weight = score_, dweight = right = dscore_;
      else
        weight = weight_, dweight = dweight_, right = dweight_pairs_;
      Product::multiply(filled, width_, lanes, {weight, lanes, 1}, dout_ + at, width_, dvalue_,
                        true);
      Product::multiply(filled, width_, lanes, {dweight, lanes, 1}, query_ + at, width_, dkey_,
                        true);
      Product::multiply(width_, lanes, filled, key_across, right, lanes, dquery_ + at, true);
    }
    for (int64_t i = 0; i < n; ++i) {
      T *dk = this->key_row(p_.dk, key + i), *dv = this->key_row(p_.dv, key + i);
      for (int64_t d = 0; d < p_.head_dim; ++d) store(dk, d, dkey_[i * width_ + d]);
      for (int64_t d = 0; d < p_.head_dim; ++d) store(dv, d, dvalue_[i * width_ + d]);
    }
  }

  // P = exp(S - lse), dS = P (dP - delta), both times what the next products need.
  template <bool kMasked>
  [[gnu::noinline]] void weigh(const Rows& rows, int64_t keys) {
    const int64_t lanes = rows.lanes;
    const A *lse = lse_filled_ + rows.first, *delta = delta_ + rows.first;
    const auto weight = [&](int64_t c, int64_t r) {
      const A e = exponential(scale_ * score_[c * lanes + r] - lse[r]);
      const int key = static_cast<int>(c);
      return !kMasked || ((key >= sight_.first[r]) & (key < sight_.end[r])) ? e : A(0);
    };
    const auto slope = [&](A weight, int64_t c, int64_t r) {
      return scale_ * weight * (dscore_[c * lanes + r] - delta[r]);
    };
    for (int64_t c = 0; c < keys; c += kPair) {
      if constexpr (kPair == 1) {
#pragma GCC ivdep
        for (int64_t r = 0; r < lanes; ++r) {
          const A w = weight(c, r);
          score_[c * lanes + r] = w;
          dscore_[c * lanes + r] = slope(w, c, r);
        }
      } else {
        bf16 *w = weight_ + c * lanes, *dw = dweight_ + c * lanes;
        uint32_t* pairs = reinterpret_cast<uint32_t*>(dweight_pairs_) + c / 2 * lanes;
#pragma GCC ivdep
        for (int64_t r = 0; r < lanes; ++r) {
          const A one = weight(c, r), two = weight(c + 1, r);
          const uint32_t done = rounded(slope(one, c, r)), dtwo = rounded(slope(two, c + 1, r));
          w[r] = static_cast<bf16>(rounded(one)), w[lanes + r] = static_cast<bf16>(rounded(two));
          dw[r] = static_cast<bf16>(done), dw[lanes + r] = static_cast<bf16>(dtwo);
          pairs[r] = done | dtwo << 16;
        }
      }
    }
  }

  void put_rows(const Rows& rows) {
    transpose(width_, rows.lanes, dquery_ + rows.first * width_, out_);
    for (int64_t r = 0; r < rows.n; ++r) {
      T* dq = this->row_of(p_.dq, rows.first + r);
      for (int64_t d = 0; d < p_.head_dim; ++d) store(dq, d, out_[r * width_ + d]);
    }
  }

  E *query_across_, *query_, *dout_across_, *dout_, *key_, *value_, *key_across_, *scratch_;
  E *weight_, *dweight_, *dweight_pairs_;
  A *dquery_, *lse_filled_, *delta_, *dkey_, *dvalue_, *score_, *dscore_, *out_;
  Sight sight_;
};

template <class T, class Product>
struct Kind {
  using Storage = T;
  using By = Product;
};
// body(Kind<storage, product>()).
template <class Body>
void with_kind(const CausalAttentionParams& p, const Body& body) {
  if (p.type == CpuType::kDouble) return body(Kind<double, Widened<double>>());
  if (p.type == CpuType::kFloat) return body(Kind<float, Widened<float>>());
#if defined(__AVX512F__)
  if (p.product == Bf16Product::kTiles) return body(Kind<bf16, Tiles>());
  if (p.product == Bf16Product::kPairs) return body(Kind<bf16, Pairs>());
#endif
  return body(Kind<bf16, Widened<float>>());
}

template <template <class, class> class Pass>
void run_tasks(const CausalAttentionParams& p, int64_t begin, int64_t end) {
  with_kind(p, [&](auto kind) {
    using Product = typename decltype(kind)::By;
    [[maybe_unused]] const typename Product::Session session;
    for (int64_t task = begin; task < end; ++task)
      Pass<typename decltype(kind)::Storage, Product>(p, task).run();
  });
}

}  // namespace

void causal_attention_forward(const CausalAttentionParams& p, int64_t begin, int64_t end) {
  run_tasks<Forward>(p, begin, end);
}
void causal_attention_backward(const CausalAttentionParams& p, int64_t begin, int64_t end) {
  run_tasks<Backward>(p, begin, end);
}

}  // namespace ceiling::CEILING_ISA
