// Causal softmax attention with grouped key/value heads and rotary positions.
#pragma once
#include "modules/mixer.h"
#include "modules/ops/rotary/rotary.h"

namespace ceiling {

struct AttentionOptions {
  int64_t d_model = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  double rope_base = 10000;
  Init qkv_init, out_init;
};

class Attention final : public Mixer {
 public:
  explicit Attention(const AttentionOptions& options);
  at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) override;
  double mixing_flops_per_token(int64_t seq_len) const override;
  double state_bytes(int64_t n_tokens, int64_t element_bytes) const override;
  // [B, tokens, n_kv_heads, head_dim] each; keys after rotation.
  std::vector<std::string> state_names() const override { return {"key", "value"}; }

 private:
  AttentionOptions options_;
  RotaryTable rotary_;
  Parameter &qkv_, &out_;  // [(n_heads + 2 n_kv_heads) head_dim, D], [D, n_heads head_dim]
};

}  // namespace ceiling
