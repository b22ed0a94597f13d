// Activation recompute of one block: only the block's input is kept; the backward pass runs the
// block again.
#pragma once
#include "modules/mixer.h"

namespace ceiling {

// Equal to block.forward(x, context, nullptr) in value and gradients. `block` must outlive the
// backward pass.
at::Tensor recomputed(Block& block, const at::Tensor& x, const MixContext& context);

}  // namespace ceiling
