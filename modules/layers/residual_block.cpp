#include "modules/layers/residual_block.h"

#include "modules/ops/linear/linear.h"
#include "modules/ops/rms_norm/rms_norm.h"

namespace ceiling {

GatedFfn::GatedFfn(int64_t d_model, int64_t d_ff, Activation activation, Init gate_up_init,
                   Init down_init, bool biases)
    : activation_(activation),
      gate_up_(parameter("gate_up.weight", {2 * d_ff, d_model}, {.init = std::move(gate_up_init)})),
      down_(parameter("down.weight", {d_model, d_ff}, {.init = std::move(down_init)})) {
  if (!biases) return;
  gate_up_bias_ = &parameter("gate_up.bias", {2 * d_ff}, {.decay = false});
  down_bias_ = &parameter("down.bias", {d_model}, {.decay = false});
}

at::Tensor GatedFfn::forward_add(const at::Tensor& x, const at::Tensor& residual) {
  const at::Tensor wide = gated(linear(x, gate_up_, gate_up_bias_), activation_);
  return linear_add(wide, down_, residual, down_bias_);
}

ResidualBlock::ResidualBlock(std::string mixer_name, std::unique_ptr<Mixer> mixer,
                             std::unique_ptr<GatedFfn> ffn, int64_t d_model, double norm_eps)
    : eps_(norm_eps),
      mixer_norm_(parameter(mixer_name + "_norm.weight", {d_model},
                            {.init = init::ones(), .decay = false})),
      mixer_(static_cast<Mixer&>(adopt(mixer_name, std::move(mixer)))),
      ffn_norm_(parameter("ffn_norm.weight", {d_model}, {.init = init::ones(), .decay = false})),
      ffn_(static_cast<GatedFfn&>(adopt("ffn", std::move(ffn)))) {}

at::Tensor ResidualBlock::forward(const at::Tensor& x, const MixContext& context, State* state) {
  const AddRmsNormOutput in = rms_norm_beside(x, mixer_norm_, eps_);
  const at::Tensor mixed = mixer_.forward(in.y, context, state);
  const AddRmsNormOutput sum = add_rms_norm(mixed, in.residual, ffn_norm_, eps_);
  return ffn_.forward_add(sum.y, sum.residual);
}

}  // namespace ceiling
