// Causal softmax attention with grouped key/value heads and rotary positions, over all tokens or a
// window of the latest.
#pragma once
#include "modules/mixer.h"
#include "modules/ops/causal_attention/causal_attention.h"
#include "modules/ops/rotary/rotary.h"

namespace ceiling {

struct AttentionOptions {
  int64_t d_model = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  double rope_base = 10000;
  int64_t rotary_dim = 0;      // channels of a head that turn, the first ones; 0: all
  int64_t window = kNoWindow;  // keys that a query sees, its own among them
  bool out_bias = false;
  Init qkv_init, out_init;
};

class Attention final : public Mixer {
 public:
  explicit Attention(const AttentionOptions& options);
  at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) override;
  double mixing_flops_per_token(int64_t seq_len) const override;
  double state_bytes(int64_t n_tokens, int64_t element_bytes) const override;
  // [B, tokens, n_kv_heads, head_dim] each; keys after rotation. With a window the last window - 1
  // of State::length tokens count, and there is room for about two windows.
  std::vector<std::string> state_names() const override { return {"key", "value"}; }

 private:
  AttentionOptions options_;
  RotaryTable rotary_;
  Parameter &qkv_, &out_;      // [(n_heads + 2 n_kv_heads) head_dim, D], [D, n_heads head_dim]
  const Parameter* out_bias_;  // [D], or none
};

}  // namespace ceiling
