#include "modules/ops/retention/reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "modules/ops/checks.h"

namespace ceiling {

RetentionOutput retention_reference(const at::Tensor& q_in, const at::Tensor& k_in,
                                    const at::Tensor& v_in, const at::Tensor& log_decay,
                                    const at::Tensor& state, const Segments& segments) {
  const at::ScalarType wide = wide_type(q_in);
  const at::Tensor q = q_in.to(wide), k = k_in.to(wide), v = v_in.to(wide);
  const int64_t batch = q.size(0), seq_len = q.size(1), heads = q.size(2);
  const at::Tensor decay = at::exp(log_decay.to(q.device(), at::kDouble))
                               .to(wide)
                               .expand({batch, seq_len, heads})
                               .unsqueeze(-1)
                               .unsqueeze(-1);
  const at::Tensor zero = at::zeros({batch, heads, q.size(3), v.size(3)}, q.options());
  at::Tensor s = state.defined() ? state : zero;
  std::vector<at::Tensor> o;
  for (int64_t t = 0; t < seq_len; ++t) {
    if (segments.any())
      s = at::where(segments.start.select(1, t).to(at::kBool).view({batch, 1, 1, 1}), zero, s);
    s = decay.select(1, t) * s + k.select(1, t).unsqueeze(-1) * v.select(1, t).unsqueeze(-2);
    o.push_back(at::matmul(q.select(1, t).unsqueeze(-2), s).squeeze(-2));
  }
  return {at::stack(o, 1).to(v_in.scalar_type()), s};
}

}  // namespace ceiling
