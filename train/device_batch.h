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

// Samples [first, first + n) of the batch; `segments_room` as `room` of make_segments().
DeviceBatch to_device(const Batch& batch, int64_t first, int64_t n, at::Device device,
                      int64_t segments_room = 0);
// The same into tensors that exist already. False if it holds more documents than they have room
// for: nothing is copied then.
bool copy_to_device(const Batch& batch, int64_t first, int64_t n, DeviceBatch& to);

// Page-locked memory for LoaderOptions::allocate where `device` is a GPU, else an empty function.
std::function<std::shared_ptr<void>(size_t)> host_allocator(at::Device device);

}  // namespace ceiling
