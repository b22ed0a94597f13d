// For kernel_cpu.cpp: products of small matrices, left [M, K] times right [K, N], N along vectors,
// in the widest form that the processor has, and transposition in registers. Internal linkage, as
// in cpu_math.h.
#pragma once
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "modules/ops/causal_attention/kernels.h"
#include "modules/ops/cpu_math.h"

namespace ceiling::CEILING_ISA {

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRows = 8;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kRows = 4;
#else
constexpr int kVectorBytes = 16, kRows = 4;
#endif
constexpr int kVectors = 2;
static_assert(kAttentionFill % kRows == 0 && kAttentionFill % (kVectors * kVectorBytes / 4) == 0);

template <class E>
struct Left {  // [M, K]
  const E* data;
  int64_t row, step;  // elements from one row to the next, from one column to the next
};

// c [M, N] (+)= a b. Sizes are multiples of kAttentionFill. The right side holds kPair rows
// interleaved: (k, n) lies at (k / kPair * columns + n) * kPair + k % kPair.
template <class A>
struct Widened {
  using Element = A;
  using Sum = A;
  static constexpr int64_t kPair = 1;
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(A));
  typedef A Vector __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));

  struct Session {};

  static void multiply(int64_t m, int64_t n, int64_t k, const Left<A>& a, const A* b,
                       int64_t columns, A* c, bool add) {
    for (int64_t j = 0; j < n; j += kVectors * kWidth)
      for (int64_t i = 0; i < m; i += kRows)
        tile(k, {a.data + i * a.row, a.row, a.step}, b + j, columns, c + i * n + j, n, add);
  }

 private:
  static void tile(int64_t k, const Left<A>& left, const A* b, int64_t columns, A* c, int64_t n,
                   bool add) {
    Vector sum[kRows][kVectors] = {};
    if (add)
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int x = 0; x < kVectors; ++x) sum[r][x] = at(c + r * n + x * kWidth);
    const A* a = left.data;
    for (int64_t s = 0; s < k; ++s, a += left.step, b += columns) {
      Vector right[kVectors];
#pragma GCC unroll 8
      for (int x = 0; x < kVectors; ++x) right[x] = at(b + x * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int x = 0; x < kVectors; ++x) sum[r][x] += right[x] * a[r * left.row];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int x = 0; x < kVectors; ++x) at(c + r * n + x * kWidth) = sum[r][x];
  }
  static const Vector& at(const A* p) { return *reinterpret_cast<const Vector*>(p); }
  static Vector& at(A* p) { return *reinterpret_cast<Vector*>(p); }
};

#if defined(__AVX512F__)
struct Pairs {
  using Element = bf16;
  using Sum = float;
  static constexpr int64_t kPair = 2;

  struct Session {};

  static void multiply(int64_t m, int64_t n, int64_t k, const Left<bf16>& a, const bf16* b,
                       int64_t columns, float* c, bool add) {
    for (int64_t j = 0; j < n; j += 32)
      for (int64_t i = 0; i < m; i += kRows)
        tile(k, a.data + i * a.row, a.row, b + 2 * j, columns, c + i * n + j, n, add);
  }

 private:
  __attribute__((target("avx512bf16"))) static void tile(int64_t k, const bf16* a, int64_t a_row,
                                                         const bf16* b, int64_t columns, float* c,
                                                         int64_t n, bool add) {
    __m512 sum[kRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int x = 0; x < 2; ++x)
        sum[r][x] = add ? _mm512_loadu_ps(c + r * n + x * 16) : _mm512_setzero_ps();
    for (int64_t s = 0; s < k; s += 2, b += 2 * columns) {
      const __m512i right[2] = {_mm512_loadu_si512(b), _mm512_loadu_si512(b + 32)};
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int pair;
        memcpy(&pair, a + r * a_row + s, sizeof pair);
        const __m512i left = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
        for (int x = 0; x < 2; ++x)
          sum[r][x] = _mm512_dpbf16_ps(sum[r][x], reinterpret_cast<__m512bh>(left),
                                       reinterpret_cast<__m512bh>(right[x]));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int x = 0; x < 2; ++x) _mm512_storeu_ps(c + r * n + x * 16, sum[r][x]);
  }
};

// g++ 12's intrinsics of tiles do not say which memory they read (only the first 8 bytes of a
// configuration, nothing of a tile): without this, stores before them may be left out.
inline void memory_is_read() { __asm__ volatile("" ::: "memory"); }

struct Tiles {
  using Element = bf16;
  using Sum = float;
  static constexpr int64_t kPair = 2;

  // Eight tiles of 16 rows of 64 bytes: four of sums, two of the left side, two of the right.
  struct Session {
    __attribute__((target("amx-tile"))) Session() {
      struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
      } config;
      for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
      memory_is_read();
      _tile_loadconfig(&config);
    }
    __attribute__((target("amx-tile"))) ~Session() { _tile_release(); }
  };

  __attribute__((target("amx-tile,amx-bf16"))) static void multiply(int64_t m, int64_t n, int64_t k,
                                                                    const Left<bf16>& a,
                                                                    const bf16* b, int64_t columns,
                                                                    float* c, bool add) {
    memory_is_read();
    const int64_t a_bytes = 2 * a.row, b_bytes = 4 * columns, c_bytes = 4 * n;
    for (int64_t j = 0; j < n; j += 32)
      for (int64_t i = 0; i < m; i += 32) {
        const bf16 *left = a.data + i * a.row, *right = b + 2 * j;
        float* sum = c + i * n + j;
        if (add) {
          _tile_loadd(0, sum, c_bytes);
          _tile_loadd(1, sum + 16, c_bytes);
          _tile_loadd(2, sum + 16 * n, c_bytes);
          _tile_loadd(3, sum + 16 * n + 16, c_bytes);
        } else {
          _tile_zero(0);
          _tile_zero(1);
          _tile_zero(2);
          _tile_zero(3);
        }
        for (int64_t s = 0; s < k; s += 32, left += 32, right += 32 * columns) {
          _tile_loadd(4, left, a_bytes);
          _tile_loadd(5, left + 16 * a.row, a_bytes);
          _tile_loadd(6, right, b_bytes);
          _tile_loadd(7, right + 32, b_bytes);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, sum, c_bytes);
        _tile_stored(1, sum + 16, c_bytes);
        _tile_stored(2, sum + 16 * n, c_bytes);
        _tile_stored(3, sum + 16 * n + 16, c_bytes);
      }
  }
};
#endif

// bfloat16 in the lower half, as cpu_math's store rounds.
inline uint32_t rounded(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  return value == value ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : 0x7fc0u;
}

// Squares of words are transposed in registers: interleaving the first half of the rows with the
// second one turns the bits of (row, column) by one, log2(kWords) times make it (column, row).
constexpr int kWords = kVectorBytes / 4;
typedef uint32_t Words __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
struct Interleave {
  uint32_t low[kWords] = {}, high[kWords] = {};
  constexpr Interleave() {
    for (uint32_t i = 0; i < kWords; ++i) {
      low[i] = i / 2 + i % 2 * kWords;
      high[i] = low[i] + kWords / 2;
    }
  }
};
constexpr Interleave kInterleave;

// to [columns, rows] = from [rows, columns] transposed; both multiples of kAttentionFill.
[[gnu::noinline]] void transpose_words(int64_t rows, int64_t columns, const void* from_in,
                                       void* to_in) {
  const uint32_t* from = static_cast<const uint32_t*>(from_in);
  uint32_t* to = static_cast<uint32_t*>(to_in);
  Words low, high;
  memcpy(&low, kInterleave.low, sizeof low);
  memcpy(&high, kInterleave.high, sizeof high);
  for (int64_t i = 0; i < rows; i += kWords)
    for (int64_t j = 0; j < columns; j += kWords) {
      Words line[kWords], next[kWords];
#pragma GCC unroll 16
      for (int r = 0; r < kWords; ++r)
        line[r] = *reinterpret_cast<const Words*>(from + (i + r) * columns + j);
#pragma GCC unroll 4
      for (int turn = 1; turn < kWords; turn *= 2) {
#pragma GCC unroll 8
        for (int r = 0; r < kWords / 2; ++r) {
          next[2 * r] = __builtin_shuffle(line[r], line[r + kWords / 2], low);
          next[2 * r + 1] = __builtin_shuffle(line[r], line[r + kWords / 2], high);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kWords; ++r) line[r] = next[r];
      }
#pragma GCC unroll 16
      for (int r = 0; r < kWords; ++r) *reinterpret_cast<Words*>(to + (j + r) * rows + i) = line[r];
    }
}
template <class U>
inline void transpose(int64_t rows, int64_t columns, const U* from, U* to) {
  if constexpr (sizeof(U) == 4) return transpose_words(rows, columns, from, to);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
}

}  // namespace
}  // namespace ceiling::CEILING_ISA
