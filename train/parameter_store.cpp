#include "train/parameter_store.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "base/hash.h"
#include "checkpoints/store.h"
#include "modules/ops/grad_norm/grad_norm.h"

namespace ceiling {

namespace {
constexpr int64_t kAlign = 128;  // elements: 256 bytes of bf16, 512 of fp32
}  // namespace

at::Tensor at_range(const at::Tensor& flat, FlatRange range) {
  return flat.narrow(0, range.begin, range.length());
}

// Parameters with keep_fp32 come last: they are computed with as they are in the master, so every
// rank needs all of them (the tail of ShardLayout). Then by treatment, so that groups are few.
ParameterStore::Slots ParameterStore::lay_out(LanguageModel& model) {
  Slots slots;
  std::vector<Parameter*> ordered = model.parameters();
  for (Parameter* parameter : ordered) slots.declared.push_back({parameter, 0, parameter->numel()});
  const auto key = [](const Parameter* p) {
    return std::tuple(p->options.keep_fp32, !p->options.decay, p->options.lr_factor);
  };
  std::stable_sort(ordered.begin(), ordered.end(),
                   [&](const Parameter* a, const Parameter* b) { return key(a) < key(b); });
  for (Parameter* parameter : ordered) {
    slots.by_offset.push_back({parameter, slots.n_flat, parameter->numel()});
    slots.n_flat += (parameter->numel() + kAlign - 1) / kAlign * kAlign;
    if (!parameter->options.keep_fp32) slots.tail_begin = slots.n_flat;
  }
  for (Slot& slot : slots.declared)
    slot.offset = std::find_if(slots.by_offset.begin(), slots.by_offset.end(), [&](const Slot& s) {
                    return s.parameter == slot.parameter;
                  })->offset;
  return slots;
}

ParameterStore::ParameterStore(LanguageModel& model, at::Device device,
                               at::ScalarType compute_dtype, uint64_t seed, bool with_optimizer)
    : ParameterStore(model, device, compute_dtype, seed, with_optimizer,
                     ShardLayout(lay_out(model).n_flat)) {}

ParameterStore::ParameterStore(LanguageModel& model, at::Device device,
                               at::ScalarType compute_dtype, uint64_t seed, bool with_optimizer,
                               ShardLayout shards)
    : slots_(lay_out(model)), shards_(std::move(shards)) {
  const auto wide = compute_dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto options = at::TensorOptions().dtype(wide).device(device);
  const bool own_compute = compute_dtype != wide || !shards_.whole();
  master = at::zeros({shards_.n_owned()}, options);
  if (own_compute) compute = at::zeros({n_flat()}, options.dtype(compute_dtype));
  load([&](const std::vector<NamedTensor>& named) {
    for (size_t i = 0; i < named.size(); ++i) {
      at::Tensor value = named[i].value;
      if (value.device().is_cpu()) {
        initialize(*slots_.declared[i].parameter, seed, value);
      } else {
        at::Tensor host = at::empty(value.sizes(), wide);
        initialize(*slots_.declared[i].parameter, seed, host);
        value.copy_(host);
      }
    }
  });
  if (with_optimizer) {
    grad = at::zeros({n_flat()}, options);
    m = at::zeros({shards_.n_owned()}, options);
    v = at::zeros({shards_.n_owned()}, options);
  }
  // Where the values of keep_fp32 parameters lie in the master: the tail is its end.
  const int64_t tail_shift = shards_.tail().begin - (shards_.n_owned() - shards_.tail().length());
  for (const Slot& slot : slots()) {
    Parameter& parameter = *slot.parameter;
    const bool in_master = !own_compute || (parameter.options.keep_fp32 && compute_dtype != wide);
    const at::Tensor value = in_master ? master.narrow(0, slot.offset - tail_shift, slot.numel)
                                       : compute.narrow(0, slot.offset, slot.numel);
    parameter.value = value.view(parameter.shape).detach();
    if (with_optimizer) {
      parameter.value.requires_grad_();
      parameter.grad = grad.narrow(0, slot.offset, slot.numel).view(parameter.shape);
    }
  }
}

std::vector<AdamwGroup> ParameterStore::groups(double weight_decay) const {
  std::vector<AdamwGroup> groups;
  for (const Slot& slot : slots()) {
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

void ParameterStore::update(const std::vector<AdamwGroup>& groups, const AdamwStep& step) {
  for (const OwnedPiece& piece : shards_.pieces()) {
    const FlatRange range = piece.range;
    std::vector<AdamwGroup> within;
    for (AdamwGroup group : groups) {
      group.begin = std::max(group.begin, range.begin) - range.begin;
      group.end = std::min(group.end, range.end) - range.begin;
      if (group.begin < group.end) within.push_back(group);
    }
    const auto owned = [&](const at::Tensor& buffer) {
      return buffer.narrow(0, piece.offset, range.length());
    };
    const at::Tensor copy = compute.defined() ? at_range(compute, range) : at::Tensor();
    const bool narrow = copy.defined() && copy.scalar_type() != master.scalar_type();
    adamw(owned(master), at_range(grad, range), owned(m), owned(v), narrow ? copy : at::Tensor(),
          within, step);
    if (copy.defined() && !narrow) copy.copy_(owned(master));
  }
}

void ParameterStore::load(const std::function<void(const std::vector<NamedTensor>&)>& fill) {
  if (shards_.whole()) {
    fill(named(master));
    if (compute.defined()) compute.copy_(master);
    return;
  }
  const at::Tensor all = at::zeros({n_flat()}, master.scalar_type());  // in host memory
  fill(named(all));
  for (const OwnedPiece& piece : shards_.pieces())
    master.narrow(0, piece.offset, piece.range.length()).copy_(at_range(all, piece.range));
  compute.copy_(all);
}

std::vector<NamedTensor> ParameterStore::named(const at::Tensor& flat) const {
  std::vector<NamedTensor> named;
  for (const Slot& slot : slots_.declared)
    named.push_back({slot.parameter->name,
                     flat.narrow(0, slot.offset, slot.numel).view(slot.parameter->shape)});
  return named;
}

std::vector<NamedTensor> ParameterStore::named_masters() const {
  TORCH_INTERNAL_ASSERT(shards_.whole());
  return named(master);
}

std::string ParameterStore::layout_hash() const {
  Sha256 hash;
  for (const Slot& slot : slots()) {
    hash.update(slot.parameter->name);
    hash.update(&slot.offset, sizeof slot.offset);
    hash.update(slot.parameter->shape.data(), slot.parameter->shape.size() * sizeof(int64_t));
  }
  return hash.hex();
}

const ParameterStore::Slot* ParameterStore::find(int64_t index) const {
  for (const Slot& slot : slots())
    if (index >= slot.offset && index < slot.offset + slot.numel) return &slot;
  return nullptr;
}

std::string ParameterStore::first_nonfinite_text(const char* what, const at::Tensor& buffer) const {
  for (const OwnedPiece& piece : shards_.pieces()) {
    const bool owned = buffer.numel() == shards_.n_owned();
    const auto index = first_nonfinite(
        buffer.narrow(0, owned ? piece.offset : piece.range.begin, piece.range.length()));
    if (!index) continue;
    const int64_t flat = piece.range.begin + *index;
    const Slot* slot = find(flat);
    return fmt::format("{} {}, element {}", what, slot ? slot->parameter->name : "(padding)",
                       slot ? flat - slot->offset : 0);
  }
  return "";
}

int64_t ParameterStore::bytes() const {
  int64_t total = 0;
  for (const at::Tensor* buffer : {&master, &compute, &grad, &m, &v})
    if (buffer->defined()) total += buffer->numel() * static_cast<int64_t>(buffer->element_size());
  return total;
}

}  // namespace ceiling
