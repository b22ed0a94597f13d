// All that the trainer knows of other processes. Collectives work on contiguous tensors, in the
// same order on every rank; on a GPU they are queued on the current stream. Implementations: one
// process (SelfCommunicator), CPU ranks (CpuCommunicator), and NCCL in libceiling_cuda.so
// (make_nccl_communicator).
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/peers.h"

namespace ceiling {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  virtual void all_reduce(at::Tensor& sum) = 0;  // every rank ends with the sum over ranks
  // `out` [n / size]: this rank's part of the sum of `in` [n] over ranks. It may be that part of
  // `in`.
  virtual void reduce_scatter(at::Tensor& out, const at::Tensor& in) = 0;
  // `out` [n * size]: every rank's `in` [n], in rank order. `in` may be this rank's part of `out`.
  virtual void all_gather(at::Tensor& out, const at::Tensor& in) = 0;
  virtual void broadcast(at::Tensor& value, int64_t root) = 0;

  // Host side: every rank's text, in rank order. Also a barrier.
  virtual std::vector<std::string> gather(const std::string& mine, const std::string& what) = 0;
  void barrier(const std::string& what) { gather("", what); }
  // Every rank's numbers, in rank order; all ranks give equally many.
  std::vector<std::vector<double>> gather_numbers(const std::vector<double>& mine,
                                                  const std::string& what);
  // What the run is at, for the messages of lost and silent ranks: "step 120".
  virtual void set_where(const std::string& /*where*/) {}
  // Throws PeerLost if work on a GPU was given up because another rank is gone. To be called after
  // each wait for the device.
  virtual void check() {}
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
  std::vector<std::string> gather(const std::string& mine, const std::string& what) override;
};

// CPU tensors over the connections of Peers. Sums are made in rank order, so they are the same on
// every rank and in every run; each rank sends and receives 2 n (size - 1) / size elements for an
// all_reduce.
class CpuCommunicator final : public Communicator {
 public:
  explicit CpuCommunicator(std::shared_ptr<Peers> peers) : peers_(std::move(peers)) {}
  int64_t rank() const override { return peers_->rank(); }
  int64_t size() const override { return peers_->size(); }
  void all_reduce(at::Tensor& sum) override;
  void reduce_scatter(at::Tensor& out, const at::Tensor& in) override;
  void all_gather(at::Tensor& out, const at::Tensor& in) override;
  void broadcast(at::Tensor& value, int64_t root) override;
  std::vector<std::string> gather(const std::string& mine, const std::string& what) override;
  void set_where(const std::string& where) override { peers_->set_where(where); }

 private:
  std::shared_ptr<Peers> peers_;
};

// NCCL on `device`, one GPU per rank, through functions that libceiling_cuda.so fills in.
// `timeout_s`: how long the device may stand still. Error if NCCL cannot be started, with its
// reason.
std::unique_ptr<Communicator> make_nccl_communicator(std::shared_ptr<Peers> peers,
                                                     at::Device device, double timeout_s);
inline std::unique_ptr<Communicator> (*nccl_communicator)(std::shared_ptr<Peers> peers,
                                                          at::Device device,
                                                          double timeout_s) = nullptr;

}  // namespace ceiling
