#pragma once
#include "modules/ops/cuda_kernel.h"
#include "modules/ops/embedding/kernels.h"

namespace ceiling {

constexpr int64_t kEmbeddingRun = 64;  // neighbours in the sorted order that one block adds up

struct GpuEmbeddingBackwardParams {
  EmbeddingBackwardParams of;  // kFloat or kBFloat16; tokens: sorted
  const int64_t* order;        // [n_tokens]: the row of dy of each sorted token
  float* partial;              // [runs, 2, dim]
};

inline CudaKernel<GpuEmbeddingBackwardParams> embedding_backward_cuda;

}  // namespace ceiling
