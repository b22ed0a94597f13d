// All that the trainer knows of other processes. Collectives work in place on contiguous tensors,
// in the same order on every rank. Implementations: SelfCommunicator (one process); NCCL and
// TCPStore ones join behind the same interface.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace ceiling {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  virtual void all_reduce(at::Tensor& sum) = 0;  // every rank ends with the sum over ranks
  // `out` [n / size]: this rank's part of the sum of `in` [n] over ranks.
  virtual void reduce_scatter(at::Tensor& out, const at::Tensor& in) = 0;
  // `out` [n * size]: every rank's `in` [n], in rank order.
  virtual void all_gather(at::Tensor& out, const at::Tensor& in) = 0;
  virtual void broadcast(at::Tensor& value, int64_t root) = 0;
  virtual void barrier() = 0;
};

// A world of one.
class SelfCommunicator final : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_reduce(at::Tensor& sum) override;
  void reduce_scatter(at::Tensor& out, const at::Tensor& in) override;
  void all_gather(at::Tensor& out, const at::Tensor& in) override;
  void broadcast(at::Tensor& value, int64_t root) override;
  void barrier() override;
};

}  // namespace ceiling
