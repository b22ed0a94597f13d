#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/linear_scan/kernels.h"

namespace ceiling {

struct GpuLinearScanParams {
  LinearScanParams of;  // kFloat or kBFloat16; partials: B segments
  // Time is cut into `segments` pieces of `segment_len` tokens that run side by side; for more than
  // one, `across` [segments, B, 2, D] is room for what passes between them.
  int64_t segments, segment_len;
  float* across;
};

constexpr int64_t kGpuScanTile = 64;  // tokens that a block takes at a time

// How time is cut: so that all SMs of an H100 have a block or two of 64 channels, a constant lest
// results depend on the card. A cut costs a second reading of the inputs.
inline int64_t scan_segment_len(int64_t batch, int64_t seq_len, int64_t dim) {
  constexpr int64_t kBlocks = 2 * 132, kLeast = 4 * kGpuScanTile;
  const int64_t streams = batch * ((dim + 63) / 64), wanted = kBlocks / streams;
  if (wanted <= 1) return seq_len;
  const int64_t len = (seq_len + wanted - 1) / wanted;
  return len < kLeast ? kLeast : (len + kGpuScanTile - 1) / kGpuScanTile * kGpuScanTile;
}

inline CudaKernel<GpuLinearScanParams> linear_scan_forward_cuda, linear_scan_backward_cuda,
    rg_lru_forward_cuda, rg_lru_backward_cuda;

}  // namespace ceiling
