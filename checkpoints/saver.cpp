#include "checkpoints/saver.h"

#include <ATen/ops/empty.h>
#include <spdlog/spdlog.h>

#include <chrono>

namespace ceiling {

namespace {

constexpr int64_t kAlignBytes = 256;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int64_t aligned_bytes(const at::Tensor& tensor) {
  return (static_cast<int64_t>(tensor.nbytes()) + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
}

}  // namespace

CheckpointSaver::CheckpointSaver(CheckpointStore& store, bool asynchronous)
    : store_(store), asynchronous_(asynchronous) {
  store_.remove_abandoned();
}

CheckpointSaver::CheckpointSaver(CheckpointStore& store, bool asynchronous, MakeMeeting meetings)
    : store_(store), asynchronous_(asynchronous), meetings_(std::move(meetings)) {}

CheckpointSaver::~CheckpointSaver() {
  try {
    wait();
  } catch (const std::exception& e) {
    spdlog::error("{}", e.what());
  }
}

void CheckpointSaver::wait() {
  if (in_flight_.valid()) in_flight_.get();
}

void CheckpointSaver::save(CheckpointContent content) {
  wait();
  const double start = now_s();
  if (asynchronous_) snapshot(content);
  last_snapshot_s_ = now_s() - start;
  const std::shared_ptr<SaveMeeting> meeting = meetings_ ? meetings_(n_saves_++) : nullptr;
  const auto write = [this, start, meeting, content = std::move(content)] {
    store_.save(content, meeting.get());
    last_save_s_ = now_s() - start;
  };
  if (asynchronous_)
    in_flight_ = std::async(std::launch::async, write);
  else
    write();
}

// Replaces every tensor by its copy in one host buffer: pinning many small ones would cost more.
void CheckpointSaver::snapshot(CheckpointContent& content) {
  int64_t size_bytes = 0;
  bool pinned = false;
  for (auto* tensors : {&content.weights, &content.flat}) {
    for (const NamedTensor& tensor : *tensors) {
      size_bytes += aligned_bytes(tensor.value);
      pinned |= tensor.value.is_cuda();
    }
  }
  if (!host_.defined() || host_.numel() < size_bytes)
    host_ = at::empty({size_bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(pinned));
  int64_t offset = 0;
  for (auto* tensors : {&content.weights, &content.flat}) {
    for (NamedTensor& tensor : *tensors) {
      const at::Tensor& value = tensor.value;
      at::Tensor copy = host_.narrow(0, offset, static_cast<int64_t>(value.nbytes()))
                            .view(value.scalar_type())
                            .view(value.sizes());
      copy.copy_(value.detach());
      offset += aligned_bytes(value);
      tensor.value = copy;
    }
  }
}

}  // namespace ceiling
