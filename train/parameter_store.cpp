#include "train/parameter_store.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "base/hash.h"
#include "checkpoints/store.h"

namespace ceiling {

namespace {
constexpr int64_t kAlign = 128;  // elements: 256 bytes of bf16, 512 of fp32
}

ParameterStore::ParameterStore(LanguageModel& model, at::Device device,
                               at::ScalarType compute_dtype, uint64_t seed, bool with_optimizer) {
  std::vector<Parameter*> ordered = model.parameters();
  for (Parameter* parameter : ordered) declared_.push_back({parameter, 0, parameter->numel()});
  std::stable_sort(ordered.begin(), ordered.end(), [](const Parameter* a, const Parameter* b) {
    return std::pair(!a->options.decay, a->options.lr_factor) <
           std::pair(!b->options.decay, b->options.lr_factor);
  });
  for (Parameter* parameter : ordered) {
    slots_.push_back({parameter, n_flat_, parameter->numel()});
    n_flat_ += (parameter->numel() + kAlign - 1) / kAlign * kAlign;
  }
  for (Slot& slot : declared_)
    slot.offset = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) {
                    return s.parameter == slot.parameter;
                  })->offset;

  const auto wide = compute_dtype == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor host = at::zeros({n_flat_}, wide);
  for (const Slot& slot : slots_) {
    at::Tensor value = host.narrow(0, slot.offset, slot.numel).view(slot.parameter->shape);
    initialize(*slot.parameter, seed, value);
  }
  const auto options = at::TensorOptions().dtype(wide).device(device);
  master = host.to(device);
  if (compute_dtype != wide) compute = master.to(compute_dtype);
  if (with_optimizer) {
    grad = at::zeros({n_flat_}, options);
    m = at::zeros({n_flat_}, options);
    v = at::zeros({n_flat_}, options);
  }
  for (const Slot& slot : slots_) {
    Parameter& parameter = *slot.parameter;
    const at::Tensor& home = compute.defined() && !parameter.options.keep_fp32 ? compute : master;
    parameter.value = home.narrow(0, slot.offset, slot.numel).view(parameter.shape).detach();
    if (with_optimizer) {
      parameter.value.requires_grad_();
      parameter.grad = grad.narrow(0, slot.offset, slot.numel).view(parameter.shape);
    }
  }
}

std::vector<AdamwGroup> ParameterStore::groups(double weight_decay) const {
  std::vector<AdamwGroup> groups;
  for (const Slot& slot : slots_) {
    const auto& options = slot.parameter->options;
    const double decay = options.decay ? weight_decay : 0;
    // Padding between equal neighbours may belong to the group: it holds zeros and stays zero.
    if (!groups.empty() && groups.back().weight_decay == decay &&
        groups.back().lr_factor == options.lr_factor)
      groups.back().end = slot.offset + slot.numel;
    else
      groups.push_back({slot.offset, slot.offset + slot.numel, decay, options.lr_factor});
  }
  return groups;
}

void ParameterStore::sync_compute() {
  if (compute.defined()) compute.copy_(master);
}

std::vector<NamedTensor> ParameterStore::named_masters() const {
  std::vector<NamedTensor> named;
  for (const Slot& slot : declared_)
    named.push_back({slot.parameter->name,
                     master.narrow(0, slot.offset, slot.numel).view(slot.parameter->shape)});
  return named;
}

std::string ParameterStore::layout_hash() const {
  Sha256 hash;
  for (const Slot& slot : slots_) {
    hash.update(slot.parameter->name);
    hash.update(&slot.offset, sizeof slot.offset);
    hash.update(slot.parameter->shape.data(), slot.parameter->shape.size() * sizeof(int64_t));
  }
  return hash.hex();
}

const ParameterStore::Slot* ParameterStore::find(int64_t index) const {
  for (const Slot& slot : slots_)
    if (index >= slot.offset && index < slot.offset + slot.numel) return &slot;
  return nullptr;
}

int64_t ParameterStore::bytes() const {
  int64_t total = 0;
  for (const at::Tensor* buffer : {&master, &compute, &grad, &m, &v})
    if (buffer->defined()) total += buffer->numel() * static_cast<int64_t>(buffer->element_size());
  return total;
}

}  // namespace ceiling
