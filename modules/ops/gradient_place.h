// Gradients of the parts of a tensor, written where the gradient of the whole will be. An op that
// takes a tensor apart offers places; the op that reads a part may use its place or not: what it
// leaves elsewhere is copied, as without one.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>

#include <utility>
#include <vector>

namespace ceiling {

// Of one backward pass: the gradient of the whole, made when the first part asks for it.
class GradientOfWhole : public torch::CustomClassHolder {
 public:
  // [B, T, W], by the last dimension's parts.
  explicit GradientOfWhole(std::vector<int64_t> sizes) : sizes_(std::move(sizes)) {}

  // Channels first .. first + width - 1, as they are in memory; undefined if they were asked for
  // before: only one gradient can lie there.
  at::Tensor offer(int64_t first, int64_t width, const at::TensorOptions& options) {
    for (const int64_t taken : taken_)
      if (taken == first) return {};
    taken_.push_back(first);
    if (!whole_.defined()) whole_ = at::empty(sizes_, options);
    return whole_.narrow(2, first, width);
  }
  // Whether it is what was offered for `first`.
  bool holds(const at::Tensor& grad, int64_t first) const {
    if (!whole_.defined() || !grad.defined()) return false;
    const at::Tensor place = whole_.narrow(2, first, grad.size(2));
    return grad.const_data_ptr() == place.const_data_ptr() && grad.strides() == place.strides();
  }
  // All of it, for whoever fills in the rest; the next backward pass begins anew.
  at::Tensor take(const at::TensorOptions& options) {
    taken_.clear();
    return whole_.defined() ? std::exchange(whole_, {}) : at::empty(sizes_, options);
  }

 private:
  std::vector<int64_t> sizes_, taken_;
  at::Tensor whole_;
};

// The place of a part. Empty: there is none.
struct GradientPlace {
  c10::intrusive_ptr<GradientOfWhole> whole = {};
  int64_t first = 0, width = 0;

  // [B, T, width], uninitialised, rows of the whole's width apart; or undefined.
  at::Tensor offer(const at::TensorOptions& options) const {
    return whole ? whole->offer(first, width, options) : at::Tensor();
  }
};

// To and from what a node of autograd keeps.
inline at::IValue kept(const GradientPlace& place) {
  return place.whole ? at::IValue(std::make_tuple(at::IValue::make_capsule(place.whole),
                                                  place.first, place.width))
                     : at::IValue();
}
inline GradientPlace place_of(const at::IValue& kept) {
  if (kept.isNone()) return {};
  const auto& parts = kept.toTupleRef().elements();
  return {c10::static_intrusive_pointer_cast<GradientOfWhole>(parts[0].toCapsule()),
          parts[1].toInt(), parts[2].toInt()};
}

}  // namespace ceiling
