#include "tests/support/random_inputs.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

#include "base/random.h"

namespace ceiling {

at::Tensor random_normal(at::IntArrayRef shape, const std::string& name, uint64_t seed,
                         double scale, at::ScalarType dtype) {
  const at::Tensor out = at::empty(shape, at::kDouble);
  const RandomStream stream(seed, "test/" + name);
  double* data = out.mutable_data_ptr<double>();
  for (int64_t i = 0; i < out.numel(); ++i)
    data[i] = scale * stream.normal(static_cast<uint64_t>(i));
  return out.to(dtype);
}

at::Tensor random_ints(at::IntArrayRef shape, int64_t low, int64_t high, const std::string& name,
                       uint64_t seed) {
  const at::Tensor out = at::empty(shape, at::kInt);
  const RandomStream stream(seed, "test/" + name);
  int* data = out.mutable_data_ptr<int>();
  for (int64_t i = 0; i < out.numel(); ++i)
    data[i] = static_cast<int>(low + static_cast<int64_t>(stream.bits(static_cast<uint64_t>(i)) %
                                                          static_cast<uint64_t>(high - low)));
  return out;
}

Parameter parameter_of(const at::Tensor& value, std::string name) {
  Parameter made;
  made.name = std::move(name);
  made.shape = value.sizes().vec();
  made.value = value.detach().clone().requires_grad_();
  made.grad = at::zeros_like(
      value, value.options().dtype(value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  return made;
}

at::Tensor strided_copy(const at::Tensor& tensor) {
  auto sizes = tensor.sizes().vec();
  for (int64_t& size : sizes) size += 3;
  sizes.push_back(2);
  // What lies between is not a number, so that reading it shows.
  at::Tensor view =
      at::full(sizes, std::numeric_limits<double>::quiet_NaN(), tensor.options()).select(-1, 1);
  for (int64_t d = 0; d < tensor.dim(); ++d) view = view.narrow(d, 1, tensor.size(d));
  view.copy_(tensor);
  return view;
}

}  // namespace ceiling
