#include "parallel/communicator.h"

#include <ATen/ops/empty_like.h>

#include <cstring>

#include "base/error.h"

namespace ceiling {

std::vector<std::vector<double>> Communicator::gather_numbers(const std::vector<double>& mine,
                                                              const std::string& what) {
  const std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double));
  std::vector<std::vector<double>> all;
  for (const std::string& text : gather(bytes, what)) {
    std::vector<double>& numbers = all.emplace_back(mine.size());
    TORCH_INTERNAL_ASSERT(text.size() == bytes.size());
    std::memcpy(numbers.data(), text.data(), text.size());
  }
  return all;
}

void SelfCommunicator::all_reduce(at::Tensor& /*sum*/) {}
void SelfCommunicator::reduce_scatter(at::Tensor& out, const at::Tensor& in) { out.copy_(in); }
void SelfCommunicator::all_gather(at::Tensor& out, const at::Tensor& in) { out.copy_(in); }
void SelfCommunicator::broadcast(at::Tensor& /*value*/, int64_t /*root*/) {}
std::vector<std::string> SelfCommunicator::gather(const std::string& mine,
                                                  const std::string& /*what*/) {
  return {mine};
}

namespace {

Peers::Part part_of(const at::Tensor& tensor) {
  TORCH_INTERNAL_ASSERT(tensor.is_contiguous() && tensor.device().is_cpu());
  return {tensor.mutable_data_ptr(), tensor.nbytes()};
}

// Elements [begin(r), begin(r + 1)) of n are rank r's: nearly equal parts.
int64_t begin_of(int64_t rank, int64_t size, int64_t n) { return n * rank / size; }

at::Tensor part(const at::Tensor& whole, int64_t rank, int64_t size) {
  const int64_t begin = begin_of(rank, size, whole.numel());
  return whole.view({-1}).narrow(0, begin, begin_of(rank + 1, size, whole.numel()) - begin);
}

// This rank's part of the sum into `out`, which may overlap `in`.
void sum_own_part(Peers& peers, at::Tensor& out, const at::Tensor& in, const char* what) {
  const int64_t size = peers.size(), rank = peers.rank();
  const at::Tensor own = part(in, rank, size);
  std::vector<at::Tensor> received(static_cast<size_t>(size), own);
  std::vector<Peers::Part> send(static_cast<size_t>(size)), receive(send);
  for (int64_t r = 0; r < size; ++r) {
    if (r == rank) continue;
    const auto i = static_cast<size_t>(r);
    received[i] = at::empty_like(own);
    send[i] = part_of(part(in, r, size));
    receive[i] = part_of(received[i]);
  }
  peers.exchange(send, receive, what);
  at::Tensor sum = received[0].clone();
  for (size_t i = 1; i < received.size(); ++i) sum.add_(received[i]);
  out.view({-1}).copy_(sum);
}

// Everyone's part into `whole`, in which this rank's own is in place.
void gather_parts(Peers& peers, at::Tensor& whole, const char* what) {
  const int64_t size = peers.size(), rank = peers.rank();
  std::vector<Peers::Part> send(static_cast<size_t>(size)), receive(send);
  for (int64_t r = 0; r < size; ++r) {
    const auto i = static_cast<size_t>(r);
    send[i] = part_of(part(whole, rank, size));
    receive[i] = part_of(part(whole, r, size));
  }
  peers.exchange(send, receive, what);
}

}  // namespace

void CpuCommunicator::all_reduce(at::Tensor& sum) {
  at::Tensor own = part(sum, rank(), size());
  sum_own_part(*peers_, own, sum, "all-reduce");
  gather_parts(*peers_, sum, "all-reduce");
}

void CpuCommunicator::reduce_scatter(at::Tensor& out, const at::Tensor& in) {
  TORCH_INTERNAL_ASSERT(out.numel() * size() == in.numel());
  sum_own_part(*peers_, out, in, "reduce-scatter");
}

void CpuCommunicator::all_gather(at::Tensor& out, const at::Tensor& in) {
  TORCH_INTERNAL_ASSERT(in.numel() * size() == out.numel());
  const at::Tensor own = part(out, rank(), size());
  if (own.data_ptr() != in.data_ptr()) own.copy_(in.view({-1}));
  gather_parts(*peers_, out, "all-gather");
}

void CpuCommunicator::broadcast(at::Tensor& value, int64_t root) {
  std::vector<Peers::Part> send(static_cast<size_t>(size())), receive(send);
  const Peers::Part all = part_of(value);
  if (rank() == root)
    send.assign(send.size(), all);
  else
    receive[static_cast<size_t>(root)] = all;
  peers_->exchange(send, receive, "broadcast");
}

std::vector<std::string> CpuCommunicator::gather(const std::string& mine, const std::string& what) {
  return peers_->gather(mine, what);
}

std::unique_ptr<Communicator> make_nccl_communicator(std::shared_ptr<Peers> peers,
                                                     at::Device device, double timeout_s) {
  TORCH_INTERNAL_ASSERT(nccl_communicator, "libceiling_cuda.so lacks NCCL");
  return nccl_communicator(std::move(peers), device, timeout_s);
}

}  // namespace ceiling
