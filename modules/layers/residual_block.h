// The block of most architectures: x <- x + mixer(norm(x)); x <- x + ffn(norm(x)), RMSNorm before
// each.
#pragma once
#include <memory>
#include <string>

#include "modules/mixer.h"
#include "modules/ops/gated/gated.h"

namespace ceiling {

// down(act(gate(x)) * up(x)) with gate and up as one matrix product. Adds its input's residual on
// the way out.
class GatedFfn : public Module {
 public:
  // `biases`, zero at the start, on all three if wanted.
  GatedFfn(int64_t d_model, int64_t d_ff, Activation activation, Init gate_up_init, Init down_init,
           bool biases = false);
  at::Tensor forward_add(const at::Tensor& x, const at::Tensor& residual);

 private:
  Activation activation_;
  Parameter &gate_up_, &down_;                                      // [2F, D], [D, F]
  const Parameter *gate_up_bias_ = nullptr, *down_bias_ = nullptr;  // [2F], [D], or none
};

class ResidualBlock final : public Block {
 public:
  // `mixer_name` names it in checkpoints ("attention", "retention").
  ResidualBlock(std::string mixer_name, std::unique_ptr<Mixer> mixer, std::unique_ptr<GatedFfn> ffn,
                int64_t d_model, double norm_eps);
  at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) override;
  const Mixer& mixer() const override { return mixer_; }

 private:
  double eps_;
  Parameter& mixer_norm_;
  Mixer& mixer_;
  Parameter& ffn_norm_;
  GatedFfn& ffn_;
};

}  // namespace ceiling
