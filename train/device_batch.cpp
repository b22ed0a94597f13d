#include "train/device_batch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

namespace ceiling {

DeviceBatch to_device(const Batch& batch, int64_t first, int64_t n, at::Device device) {
  const auto rows = [&](const int32_t* data) {
    // The tensor does not own the loader's buffer: a host copy is cheap beside the step and
    // outlives it.
    return at::from_blob(const_cast<int32_t*>(data) + first * batch.context, {n, batch.context},
                         at::kInt);
  };
  const auto move = [&](const at::Tensor& host) {
    return device.is_cpu() ? host.clone() : host.to(device, /*non_blocking=*/true);
  };
  DeviceBatch out;
  out.tokens = move(rows(batch.tokens));
  out.targets = move(rows(batch.targets));
  out.segments = make_segments(rows(batch.documents).clone());
  if (out.segments.any() && !device.is_cpu()) {
    out.segments.document = out.segments.document.to(device);
    out.segments.start = out.segments.start.to(device);
    out.segments.position = out.segments.position.to(device);
  }
  return out;
}

std::function<std::shared_ptr<void>(size_t)> host_allocator(at::Device device) {
  if (device.is_cpu()) return {};
  return [](size_t size_bytes) -> std::shared_ptr<void> {
    auto tensor = std::make_shared<at::Tensor>(
        at::empty({static_cast<int64_t>(size_bytes)},
                  at::TensorOptions().dtype(at::kByte).pinned_memory(true)));
    return {tensor->mutable_data_ptr(), [tensor](void*) {}};
  };
}

}  // namespace ceiling
