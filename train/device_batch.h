// A loader's batch as tensors on the device that computes.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "data/loader.h"
#include "modules/segments.h"

namespace ceiling {

struct DeviceBatch {
  at::Tensor tokens, targets;  // [n, T] int32
  Segments segments;
};

// Samples [first, first + n) of the batch.
DeviceBatch to_device(const Batch& batch, int64_t first, int64_t n, at::Device device);

// Page-locked memory for LoaderOptions::allocate where `device` is a GPU, else an empty function.
std::function<std::shared_ptr<void>(size_t)> host_allocator(at::Device device);

}  // namespace ceiling
