#include "train/device_batch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

namespace ceiling {

namespace {

// A host batch's samples as tensors that do not own the loader's buffers.
DeviceBatch host_view(const Batch& batch, int64_t first, int64_t n, int64_t segments_room) {
  const auto rows = [&](const int32_t* data) {
    return at::from_blob(const_cast<int32_t*>(data) + first * batch.context, {n, batch.context},
                         at::kInt);
  };
  // Segments are made here, in ordinary memory; the loader's arrays are page-locked already.
  return {rows(batch.tokens), rows(batch.targets),
          make_segments(rows(batch.documents).clone(), segments_room)};
}

// Page-locked, so that a copy to a GPU does not wait for what the GPU is at.
at::Tensor ready_to_copy(const at::Tensor& host) {
  return host.is_pinned() ? host : host.pin_memory();
}

// Each tensor of a batch with its counterpart in another.
template <class Visit>
void for_each_pair(const DeviceBatch& from, DeviceBatch& to, const Visit& visit) {
  visit(from.tokens, to.tokens);
  visit(from.targets, to.targets);
  if (!from.segments.any()) return;
  visit(from.segments.document, to.segments.document);
  visit(from.segments.start, to.segments.start);
  visit(from.segments.position, to.segments.position);
  visit(from.segments.bounds, to.segments.bounds);
}

}  // namespace

DeviceBatch to_device(const Batch& batch, int64_t first, int64_t n, at::Device device,
                      int64_t segments_room) {
  DeviceBatch out;
  for_each_pair(
      host_view(batch, first, n, segments_room), out, [&](const at::Tensor& from, at::Tensor& to) {
        // A host copy is cheap beside the step, and outlives the loader's buffer.
        to = device.is_cpu() ? from.clone() : ready_to_copy(from).to(device, /*non_blocking=*/true);
      });
  return out;
}

bool copy_to_device(const Batch& batch, int64_t first, int64_t n, DeviceBatch& to) {
  const int64_t room = to.segments.any() ? to.segments.bounds.size(0) : 0;
  const DeviceBatch from = host_view(batch, first, n, room);
  if (room > 0 && from.segments.bounds.size(0) > room) return false;
  for_each_pair(from, to, [](const at::Tensor& source, at::Tensor& held) {
    held.copy_(ready_to_copy(source), /*non_blocking=*/true);
  });
  return true;
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
