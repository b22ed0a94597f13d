#include "train/device_batch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

namespace ceiling {

namespace {

// A host batch's samples as tensors that do not own the loader's buffers.
DeviceBatch host_view(const Batch& batch, int64_t first, int64_t n, bool always_segments) {
  const auto rows = [&](const int32_t* data) {
    return at::from_blob(const_cast<int32_t*>(data) + first * batch.context, {n, batch.context},
                         at::kInt);
  };
  return {rows(batch.tokens), rows(batch.targets),
          make_segments(rows(batch.documents).clone(), always_segments)};
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
}

}  // namespace

DeviceBatch to_device(const Batch& batch, int64_t first, int64_t n, at::Device device,
                      bool always_segments) {
  DeviceBatch out;
  for_each_pair(host_view(batch, first, n, always_segments), out,
                [&](const at::Tensor& from, at::Tensor& to) {
                  // A host copy is cheap beside the step, and outlives the loader's buffer.
                  to = device.is_cpu() ? from.clone() : from.to(device, /*non_blocking=*/true);
                });
  return out;
}

void copy_to_device(const Batch& batch, int64_t first, int64_t n, DeviceBatch& to) {
  for_each_pair(
      host_view(batch, first, n, to.segments.any()), to,
      [](const at::Tensor& from, at::Tensor& held) { held.copy_(from, /*non_blocking=*/true); });
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
