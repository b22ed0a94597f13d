// A host batch as tensors on a device.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

#include "data/loader.h"
#include "modules/segments.h"

namespace ceiling {

struct DeviceBatch {
  at::Tensor tokens, targets;  // [n, T] int32
  Segments segments;
};

// Samples [first, first + n) of the batch. `always_segments`: even where no document starts.
DeviceBatch to_device(const Batch& batch, int64_t first, int64_t n, at::Device device,
                      bool always_segments = false);
// The same into tensors that exist already.
void copy_to_device(const Batch& batch, int64_t first, int64_t n, DeviceBatch& to);

// Page-locked memory for LoaderOptions::allocate where `device` is a GPU, else an empty function.
std::function<std::shared_ptr<void>(size_t)> host_allocator(at::Device device);

}  // namespace ceiling
