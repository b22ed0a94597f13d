// The contract of everything that mixes along time, and of the blocks a language model is made of.
// One forward serves training, prefill, chunked prefill, truncated back-propagation and decoding:
//   state == nullptr   every row starts from zero and nothing is returned
//   otherwise          the state enters and leaves updated; an empty state starts from zero
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "modules/parameter.h"
#include "modules/segments.h"

namespace ceiling {

// What one layer carries from one call to the next. Which tensors, in which order, is the mixer's
// own: state_names().
struct State {
  std::vector<at::Tensor> tensors;
  int64_t length = 0;  // of a growing state (key/value cache): entries in use; the tensors may have
                       // room for more
  bool empty() const { return tensors.empty(); }
};

// What a mixer may know of the batch beside x.
struct MixContext {
  Segments segments;
  at::Tensor position;  // [B, T] int32 position of each token in its document; undefined: 0 .. T-1
                        // in every row
  int64_t position_bound = 0;  // all positions are below it
  // [B] int32: how many of the latest tokens in a growing state belong to the row's present
  // document; undefined: all.
  at::Tensor carried;
  // [B or 1, 1, T, keys] bool, which keys a query sees: made by the first attention layer of a
  // forward, used by all with the same window.
  mutable at::Tensor attention_mask;
  mutable int64_t attention_window = 0;
};

class Mixer : public Module {
 public:
  // x [B, T, D] -> [B, T, D]
  virtual at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) = 0;
  // Forward FLOPs per token of what is not a parameter matmul (scores, state updates), at this
  // sequence length.
  virtual double mixing_flops_per_token(int64_t seq_len) const = 0;
  // Bytes of decode state of one sequence after `n_tokens`, with `element_bytes` per activation.
  virtual double state_bytes(int64_t n_tokens, int64_t element_bytes) const = 0;
  virtual std::vector<std::string> state_names() const = 0;
};

// x <- x + everything one layer does.
class Block : public Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) = 0;
  virtual const Mixer& mixer() const = 0;
};

}  // namespace ceiling
