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

RetentionOutput retention_reference_by_pairs(const at::Tensor& q_in, const at::Tensor& k_in,
                                             const at::Tensor& v_in, const at::Tensor& log_decay,
                                             const at::Tensor& state, const Segments& segments) {
  const auto by_head = [](const at::Tensor& x) { return x.to(at::kDouble).transpose(1, 2); };
  const at::Tensor q = by_head(q_in), k = by_head(k_in), v = by_head(v_in);  // [B, H, T, *]
  const int64_t batch = q.size(0), heads = q.size(1), seq_len = q.size(2);
  // [B, H, T]: log decays up to each token, its own included.
  const at::Tensor sum = log_decay.to(q.device(), at::kDouble)
                             .expand({batch, seq_len, heads})
                             .transpose(1, 2)
                             .cumsum(2);
  // [B, 1, T]: documents that have started up to each token.
  const at::Tensor document = segments.any()
                                  ? segments.start.to(at::kLong).cumsum(1).unsqueeze(1)
                                  : at::zeros({batch, 1, seq_len}, q.options().dtype(at::kLong));
  const at::Tensor seen = (document.unsqueeze(3) == document.unsqueeze(2)).tril();
  // Where nothing is seen the exponent may be large.
  const at::Tensor between =
      at::where(seen, sum.unsqueeze(3) - sum.unsqueeze(2), 0.0).exp() * seen.to(at::kDouble);
  const at::Tensor entering = state.defined()
                                  ? state.to(at::kDouble)
                                  : at::zeros({batch, heads, q.size(3), v.size(3)}, q.options());
  const at::Tensor enters = sum.exp() * (document == 0).to(at::kDouble);  // [B, H, T]
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) * between;
  const at::Tensor o = at::matmul(scores, v) + at::matmul(enters.unsqueeze(3) * q, entering);
  const at::Tensor leaves = between.select(2, seq_len - 1).unsqueeze(3);
  const at::Tensor last = at::matmul((leaves * k).transpose(2, 3), v) +
                          enters.select(2, seq_len - 1).unsqueeze(2).unsqueeze(3) * entering;
  return {o.transpose(1, 2), last};
}

}  // namespace ceiling
