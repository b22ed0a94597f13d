#include "parallel/communicator.h"

namespace ceiling {

void SelfCommunicator::all_reduce(at::Tensor& /*sum*/) {}
void SelfCommunicator::reduce_scatter(at::Tensor& out, const at::Tensor& in) { out.copy_(in); }
void SelfCommunicator::all_gather(at::Tensor& out, const at::Tensor& in) { out.copy_(in); }
void SelfCommunicator::broadcast(at::Tensor& /*value*/, int64_t /*root*/) {}
void SelfCommunicator::barrier() {}

}  // namespace ceiling
