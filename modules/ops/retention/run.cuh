// For kernels: sums over time from late to early that begin anew in each document.
#pragma once
#include "modules/ops/cuda/vector.cuh"

namespace ceiling::gpu {

// A run of tokens, from late to early: what they add, and whether a document starts among them.
struct Run {
  double sum;
  int starts;
};
__device__ __forceinline__ Run then(Run late, Run early) {
  return {early.starts ? early.sum : late.sum + early.sum, late.starts | early.starts};
}

// Each lane's run after those of the lanes below it, which are later.
__device__ __forceinline__ Run scan_warp(Run run) {
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Run late{__shfl_up_sync(0xffffffffu, run.sum, offset),
                   __shfl_up_sync(0xffffffffu, run.starts, offset)};
    if (static_cast<int>(threadIdx.x % kWarp) >= offset) run = then(late, run);
  }
  return run;
}

}  // namespace ceiling::gpu
