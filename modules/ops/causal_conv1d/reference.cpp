#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "modules/ops/causal_conv1d/causal_conv1d.h"
#include "modules/ops/checks.h"

namespace ceiling {

CausalConv1dOutput causal_conv1d_reference(const at::Tensor& x_in, const at::Tensor& weight_in,
                                           const at::Tensor& bias, const at::Tensor& state,
                                           const Segments& segments, bool silu) {
  const at::ScalarType wide = wide_type(x_in);
  const at::Tensor x = x_in.to(wide), weight = weight_in.to(wide);
  const int64_t batch = x.size(0), seq_len = x.size(1), width = weight.size(2);
  const at::Tensor none = at::zeros({}, x.options());
  const at::Tensor before =
      state.defined() ? state.to(wide) : at::zeros({batch, width - 1, x.size(2)}, x.options());
  const at::Tensor inputs = at::cat({before, x}, 1);
  at::Tensor document;  // [B, W - 1 + T, 1]; the state is part of document 0
  if (segments.any())
    document =
        at::cat({at::zeros({batch, width - 1}, segments.document.options()), segments.document}, 1)
            .unsqueeze(-1);
  // `count` inputs from `first` on, as far as they are of the document `of`.
  const auto seen = [&](int64_t first, int64_t count, const at::Tensor& of) {
    const at::Tensor part = inputs.narrow(1, first, count);
    return document.defined() ? at::where(document.narrow(1, first, count).eq(of), part, none)
                              : part;
  };
  const at::Tensor own = document.defined() ? document.narrow(1, width - 1, seq_len) : at::Tensor();
  at::Tensor sum = bias.defined() ? bias.to(wide) : none;
  for (int64_t k = 0; k < width; ++k)
    sum = sum + seen(k, seq_len, own) * weight.select(2, k).select(1, 0);
  const at::Tensor last =
      seen(seq_len, width - 1, own.defined() ? own.narrow(1, seq_len - 1, 1) : own);
  return {(silu ? at::silu(sum) : sum).to(x_in.scalar_type()), last.to(x_in.scalar_type())};
}

}  // namespace ceiling
