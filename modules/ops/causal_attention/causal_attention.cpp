#include "modules/ops/causal_attention/causal_attention.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/cpu/Utils.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "modules/ops/checks.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor unit_stride(const at::Tensor& x) {
  return x.stride(3) == 1 || x.size(3) == 1 ? x : x.contiguous();
}

AttentionRows rows_of(const at::Tensor& x) {
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), x.stride(2)};
}

// [B, T] int32: the first key that each query sees, where its document or the window begins.
at::Tensor first_keys(const at::Tensor& document, const at::Tensor& q, int64_t n_keys,
                      int64_t window) {
  const int64_t batch = q.size(0), seq_len = q.size(1);
  const at::Tensor ids = document.defined() ? document.contiguous() : at::Tensor(),
                   first = at::empty({batch, seq_len}, at::kInt);
  for (int64_t b = 0; b < batch; ++b) {
    const int* id = ids.defined() ? ids.const_data_ptr<int>() + b * n_keys : nullptr;
    int* out = first.mutable_data_ptr<int>() + b * seq_len;
    int64_t begin = 0;
    for (int64_t j = 0; j < n_keys; ++j) {
      if (id && j > 0 && id[j] < id[j - 1])
        throw Error("causal_attention: document {} follows {} in row {}; they must not decrease",
                    id[j], id[j - 1], b);
      if (id && j > 0 && id[j] != id[j - 1]) begin = j;
      if (j >= n_keys - seq_len)
        out[j - (n_keys - seq_len)] = static_cast<int>(std::max(begin, j - window + 1));
    }
  }
  return first;
}

CausalAttentionParams params_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const at::Tensor& out, const at::Tensor& lse,
                                const at::Tensor& first_key, double scale, Bf16Product product) {
  CausalAttentionParams p{};
  p.type = cpu_type(q, "causal_attention"), p.product = product;
  p.seq_len = q.size(1), p.n_keys = k.size(1), p.kv_heads = k.size(2);
  p.group = q.size(2) / p.kv_heads, p.head_dim = q.size(3), p.scale = scale;
  p.q = rows_of(q), p.k = rows_of(k), p.v = rows_of(v), p.out = rows_of(out);
  p.first_key = first_key.defined() ? first_key.const_data_ptr<int>() : nullptr;
  p.lse = lse.mutable_data_ptr();
  return p;
}

class CausalAttentionFn : public torch::autograd::Function<CausalAttentionFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const std::optional<at::Tensor>& first_key,
                            double scale, int64_t product) {
    const at::Tensor q = unit_stride(q_in), k = unit_stride(k_in), v = unit_stride(v_in);
    const at::Tensor out = at::empty(q.sizes(), q.options());
    const auto wide = q.options().dtype(wide_type(q));
    const at::Tensor lse = at::empty({q.size(0), q.size(2), q.size(1)}, wide);
    CausalAttentionParams p = params_of(q, k, v, out, lse, first_key.value_or(at::Tensor()), scale,
                                        static_cast<Bf16Product>(product));
    const int64_t heads = q.size(0) * p.kv_heads,
                  blocks = (p.seq_len * p.group + kAttentionBlock - 1) / kAttentionBlock;
    // Two tasks per thread at least; each packs the keys for itself.
    p.splits = 1;
    while (heads * p.splits < 2 * at::get_num_threads() && p.splits < blocks) p.splits *= 2;
    at::parallel_for(0, heads * p.splits, 1, [&](int64_t b, int64_t e) {
      CausalAttentionParams mine = p;
      const at::Tensor workspace = at::empty({causal_attention_forward_workspace(p)}, wide);
      mine.workspace = workspace.mutable_data_ptr();
      causal_attention_forward(mine, b, e);
    });
    ctx->save_for_backward({q, k, v, out, lse, first_key.value_or(at::Tensor())});
    ctx->saved_data["scale"] = scale, ctx->saved_data["product"] = product;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const at::Tensor dout = unit_stride(grads[0]), dq = at::empty(q.sizes(), q.options()),
                     dk = at::empty(k.sizes(), q.options()), dv = at::empty(v.sizes(), q.options());
    CausalAttentionParams p =
        params_of(q, k, v, saved[3], saved[4], saved[5], ctx->saved_data["scale"].toDouble(),
                  static_cast<Bf16Product>(ctx->saved_data["product"].toInt()));
    p.dout = rows_of(dout), p.dq = rows_of(dq), p.dk = rows_of(dk), p.dv = rows_of(dv);
    at::parallel_for(0, q.size(0) * p.kv_heads, 1, [&](int64_t b, int64_t e) {
      CausalAttentionParams mine = p;
      const at::Tensor workspace =
          at::empty({causal_attention_backward_workspace(p)}, saved[4].options());
      mine.workspace = workspace.mutable_data_ptr();
      causal_attention_backward(mine, b, e);
    });
    return {dq, dk, dv, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
           const at::Tensor& document, int64_t window) {
  if (q.dim() != 4 || k.dim() != 4 || v.dim() != 4)
    throw Error(
        "causal_attention: q, k and v must be [B, T, heads, head_dim], got {}, {} and {} "
        "dimensions",
        q.dim(), k.dim(), v.dim());
  if (k.sizes() != v.sizes() || k.size(0) != q.size(0) || k.size(3) != q.size(3))
    throw Error("causal_attention: k and v must be [{}, S, H_kv, {}], both the same", q.size(0),
                q.size(3));
  if (k.size(1) < q.size(1))
    throw Error("causal_attention: {} keys are fewer than {} queries", k.size(1), q.size(1));
  if (k.size(2) == 0 || q.size(2) % k.size(2) != 0)
    throw Error("causal_attention: {} key heads do not divide {} query heads", k.size(2),
                q.size(2));
  if (k.scalar_type() != q.scalar_type() || v.scalar_type() != q.scalar_type())
    throw Error("causal_attention: q is {}, k {}, v {}; they must agree",
                c10::toString(q.scalar_type()), c10::toString(k.scalar_type()),
                c10::toString(v.scalar_type()));
  if (document.defined() &&
      (document.sizes() != k.sizes().slice(0, 2) || document.scalar_type() != at::kInt))
    throw Error("causal_attention: document must be int32 [{}, {}], one for each key", k.size(0),
                k.size(1));
  if (window < 1)
    throw Error("causal_attention: window {} is not allowed, must be at least 1", window);
  if (k.size(1) > std::numeric_limits<int>::max())
    throw Error("causal_attention: {} keys; at most {} are supported", k.size(1),
                std::numeric_limits<int>::max());
}

}  // namespace

std::vector<Bf16Product> bf16_products() {
  static const std::vector<Bf16Product> products = [] {
    std::vector<Bf16Product> usable = {Bf16Product::kWidened};
    if (cpu_isa() != CpuIsa::kAvx512) return usable;
    // An AMD core multiplies pairs at twice the rate of float32, an Intel one at half of it
    // (README).
    if (__builtin_cpu_supports("avx512bf16"))
      usable.insert(__builtin_cpu_is("amd") ? usable.end() : usable.begin(), Bf16Product::kPairs);
    // Tiles where torch multiplies with them, too; the system must be asked for them first.
    if (at::native::cpublas::could_pack(at::kBFloat16) && __builtin_cpu_supports("amx-bf16") &&
        at::cpu::init_amx())
      usable.push_back(Bf16Product::kTiles);
    return usable;
  }();
  return products;
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& document, double scale, int64_t window,
                            std::optional<Bf16Product> product) {
  check(q, k, v, document, window);
  if (q.numel() == 0) return at::empty(q.sizes(), q.options());
  const bool whole = !document.defined() && window >= k.size(1);
  return CausalAttentionFn::apply(
      q, k, v, whole ? std::nullopt : std::optional(first_keys(document, q, k.size(1), window)),
      scale, static_cast<int64_t>(product.value_or(bf16_products().back())));
}

at::Tensor causal_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& document, double scale, int64_t window) {
  const int64_t seq_len = q.size(1), n_keys = k.size(1), cached = n_keys - seq_len;
  const auto type = wide_type(q);
  const auto heads = [&](const at::Tensor& x) {
    return x.to(type).repeat_interleave(q.size(2) / x.size(2), 2).transpose(1, 2);
  };
  const auto ints = at::TensorOptions().dtype(at::kInt).device(q.device());
  const at::Tensor query = at::arange(cached, n_keys, ints).view({1, 1, seq_len, 1}),
                   key = at::arange(n_keys, ints).view({1, 1, 1, n_keys});
  at::Tensor seen = key.le(query);
  if (window < n_keys) seen = seen & key.gt(query - window);
  if (document.defined())
    seen = seen & document.view({-1, 1, 1, n_keys})
                      .eq(document.narrow(1, cached, seq_len).reshape({-1, 1, seq_len, 1}));
  const at::Tensor score = at::matmul(heads(q), heads(k).transpose(2, 3)) * scale;
  const at::Tensor weight =
      score.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity()).softmax(-1);
  return at::matmul(weight, heads(v)).transpose(1, 2).to(q.scalar_type());
}

}  // namespace ceiling
