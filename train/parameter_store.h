// All parameters of a model in flat, 256-byte aligned buffers: fp32 master, compute copy (the
// master itself for fp32), fp32 gradient, Adam moments. Parameter::value and ::grad are views of
// them, so the optimizer, norms, communication and checkpoints are each one operation on one
// buffer.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "modules/lm.h"
#include "modules/ops/adamw/adamw.h"

namespace ceiling {

struct NamedTensor;

class ParameterStore {
 public:
  // Allocates and initialises from `seed`. `compute` is float32, bfloat16 or float64 (then
  // everything is float64). with_optimizer false: no gradient and moments (evaluation, generation).
  ParameterStore(LanguageModel& model, at::Device device, at::ScalarType compute, uint64_t seed,
                 bool with_optimizer = true);

  struct Slot {
    Parameter* parameter;
    int64_t offset, numel;
  };
  const std::vector<Slot>& slots() const { return slots_; }
  int64_t n_flat() const { return n_flat_; }  // length of each buffer, padding included

  at::Tensor master, compute, grad, m,
      v;  // [n_flat]; `compute` is undefined where the master serves

  // Neighbouring slots of equal treatment; decayed matrices first, then the rest.
  std::vector<AdamwGroup> groups(double weight_decay) const;
  // Refreshes `compute` from `master`, after loading.
  void sync_compute();
  // fp32 views of the masters by parameter name, in declaration order.
  std::vector<NamedTensor> named_masters() const;
  // SHA-256 over names, shapes and offsets: two stores of equal layout can exchange flat buffers.
  std::string layout_hash() const;
  // The parameter that flat element `index` belongs to; null in padding.
  const Slot* find(int64_t index) const;
  int64_t bytes() const;  // of all buffers

 private:
  std::vector<Slot> slots_;  // by offset
  std::vector<Slot> declared_;
  int64_t n_flat_ = 0;
};

}  // namespace ceiling
