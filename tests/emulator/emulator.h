// CUDA on a CPU, for tests where there is no GPU: the kernels of modules/ops as they stand,
// compiled as C++ (translate.py rewrites their launches), run thread by thread. Right results on a
// GPU it cannot promise: it knows nothing of memory models, speed or rounding of the approximate
// instructions. But a wrong index, a missing barrier, a copy that is not waited for, a document's
// start or a short tile forgotten all show.
//
// Every thread of a block is a fiber; blocks run one after another, and of a block warp after warp,
// each as far as it gets alone, in a random order (the same in every run), so that results do not
// depend on a lucky one. Asynchronous copies and products happen as late as they may: when they are
// waited for.
// Shared memory asked for at a launch starts as not-a-number. Kernels are compiled with the address
// sanitizer: an index beyond the end and a vector between whole pieces end the test with a line.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#undef __align__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline
#define __align__(n) alignas(n)

namespace ceiling::emulator {

struct Thread {
  uint3 index, block;
  dim3 block_size, grid_size;
  int lane;
};
const Thread& self();
[[noreturn]] void fail(const char* what);  // says so and ends the program

// Runs `kernel` in all threads of all blocks.
void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);
void* dynamic_shared();

void block_barrier();
// Of the block's barriers the one with that number, for `threads` of it; returns at once unless
// `wait`.
void named_barrier(int number, int threads, bool wait);
// Gives `mine` (of at most 64 bytes) to the warp and waits for all lanes of `mask`; -> what lane 0,
// 1, ... gave.
struct alignas(16) Given {
  unsigned char bytes[64];
};
const Given* exchange(uint32_t mask, const void* mine, size_t bytes);
template <class T>
const Given* exchange(uint32_t mask, const T& mine) {
  static_assert(sizeof(T) <= sizeof(Given));
  return exchange(mask, &mine, sizeof(T));
}
template <class T>
T given(const Given* all, int lane) {
  T value;
  std::memcpy(&value, all[lane].bytes, sizeof value);
  return value;
}

// Shared memory as 32-bit addresses.
uint32_t address_of(const void* shared);
void* at_address(uint32_t address);

void copy_later(void* to, const void* from, int bytes);  // from null: zeros
void commit_copies();
void wait_copies(int left);

// The same of matrix products: `product` runs when this thread waits for it.
void product_later(std::function<void()> product);
void commit_products();
void wait_products(int left);

}  // namespace ceiling::emulator

#define threadIdx (::ceiling::emulator::self().index)
#define blockIdx (::ceiling::emulator::self().block)
#define blockDim (::ceiling::emulator::self().block_size)
#define gridDim (::ceiling::emulator::self().grid_size)

inline void __syncthreads() { ::ceiling::emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { ::ceiling::emulator::exchange(mask, 0); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto* all = ::ceiling::emulator::exchange(mask, predicate);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1u && ::ceiling::emulator::given<int>(all, lane)) bits |= 1u << lane;
  return bits;
}
template <class T>
T emulated_shuffle(unsigned mask, T value, int from, bool inside) {
  const auto* all = ::ceiling::emulator::exchange(mask, value);
  return inside ? ::ceiling::emulator::given<T>(all, from) : value;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return emulated_shuffle(mask, value, lane % 32, true);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with) {
  const int from = ::ceiling::emulator::self().lane ^ with;
  return emulated_shuffle(mask, value, from, from < 32);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by) {
  const int from = ::ceiling::emulator::self().lane - by;
  return emulated_shuffle(mask, value, from, from >= 0);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by) {
  const int from = ::ceiling::emulator::self().lane + by;
  return emulated_shuffle(mask, value, from, from < 32);
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*)(Parameters...), cudaFuncAttribute, int) {
  return cudaSuccess;
}
inline float __expf(float x) { return std::exp(x); }
#define __log2f(x) std::log2(x)  // a name that the C library has taken
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
template <class A, class B>
constexpr auto min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
constexpr auto max(A a, B b) {
  return a < b ? b : a;
}
