// All parameters of a model in flat, 256-byte aligned buffers: fp32 master, compute copy (the
// master itself for fp32), fp32 gradient, Adam moments. Parameter::value and ::grad are views of
// them, so the optimizer, norms, communication and checkpoints are each one operation on a few
// pieces of one buffer. With ZeRO-1 master and moments hold only what this rank owns.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "modules/lm.h"
#include "modules/ops/adamw/adamw.h"
#include "parallel/shard_layout.h"

namespace ceiling {

struct NamedTensor;

// View of these elements.
at::Tensor at_range(const at::Tensor& flat, FlatRange range);

class ParameterStore {
 public:
  struct Slot {
    Parameter* parameter;
    int64_t offset, numel;
  };
  // Where the parameters lie: the same for every number of ranks.
  struct Slots {
    std::vector<Slot> by_offset, declared;
    int64_t n_flat = 0;      // padding included
    int64_t tail_begin = 0;  // from here on lie the parameters with keep_fp32
  };
  static Slots lay_out(LanguageModel& model);

  // Allocates and initialises from `seed`. `compute` is float32, bfloat16 or float64 (then
  // everything is float64). with_optimizer false: no gradient and moments (evaluation, generation).
  ParameterStore(LanguageModel& model, at::Device device, at::ScalarType compute, uint64_t seed,
                 bool with_optimizer = true);
  // This rank's part of the optimizer: `shards` is a cut of lay_out(model).
  ParameterStore(LanguageModel& model, at::Device device, at::ScalarType compute, uint64_t seed,
                 bool with_optimizer, ShardLayout shards);

  const std::vector<Slot>& slots() const { return slots_.by_offset; }
  int64_t n_flat() const { return slots_.n_flat; }
  const ShardLayout& shards() const { return shards_; }

  // master, m, v [shards().n_owned()]; compute, grad [n_flat]. `compute` is undefined where the
  // master serves: fp32, and the rank owns everything.
  at::Tensor master, compute, grad, m, v;

  // Neighbouring slots of equal treatment; decayed matrices first, then the rest.
  std::vector<AdamwGroup> groups(double weight_decay) const;
  // AdamW on what this rank owns; `grad` of it becomes zero. `compute` is written there, too.
  void update(const std::vector<AdamwGroup>& groups, const AdamwStep& step);
  // `fill` writes all weights, by parameter name in declaration order, in fp32.
  void load(const std::function<void(const std::vector<NamedTensor>&)>& fill);
  // Views of `flat` [n_flat] by parameter name, in declaration order.
  std::vector<NamedTensor> named(const at::Tensor& flat) const;
  // The masters so; the rank must own everything.
  std::vector<NamedTensor> named_masters() const;
  // SHA-256 over names, shapes and offsets: two stores of equal layout can exchange flat buffers.
  std::string layout_hash() const;
  // The parameter that flat element `index` belongs to; null in padding.
  const Slot* find(int64_t index) const;
  // The first element of `buffer` (owned or flat, as master or grad) that is not finite: "weight
  // layers.0.x, element 3". Only what this rank owns is looked at.
  std::string first_nonfinite_text(const char* what, const at::Tensor& buffer) const;
  int64_t bytes() const;  // of all buffers

 private:
  Slots slots_;
  ShardLayout shards_;
};

}  // namespace ceiling
