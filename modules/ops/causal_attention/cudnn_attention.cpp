#include "modules/ops/causal_attention/cudnn_attention.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <bit>

#include "modules/ops/causal_attention/cudnn_plans.h"
#include "modules/ops/checks.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

HeadStrides strides_of(const at::Tensor& x) {  // those of a single row or head say nothing
  const int64_t token = x.stride(1);
  return {x.size(0) == 1 ? x.size(1) * token : x.stride(0), token,
          x.size(2) == 1 ? x.size(3) : x.stride(2)};
}

// As cuDNN can read it, which it does not check. Packed rows must lie as the gradients will: cuDNN
// 9.19 writes those of queries and keys to the wrong places otherwise.
at::Tensor readable(const at::Tensor& x, bool packed) {
  const auto strides = x.strides();
  const bool repeats = std::find(strides.begin(), strides.end(), 0) != strides.end();
  return rows_of_pieces(packed || repeats ? x.contiguous() : x);
}

// Of packed documents, on the device. Both undefined: rows.
struct Documents {
  at::Tensor lengths;  // [n] int32
  at::Tensor before;   // [n + 1] int64: tokens before each

  Documents(const at::Tensor& bounds, int64_t n_tokens) {
    if (!bounds.defined()) return;
    const auto given = static_cast<uint64_t>(bounds.size(0)) - 1;
    const auto n = static_cast<int64_t>(std::bit_ceil(given));
    before = at::constant_pad_nd(bounds, {0, n + 1 - bounds.size(0)}, n_tokens).to(at::kLong);
    lengths = (before.narrow(0, 1, n) - before.narrow(0, 0, n)).to(at::kInt);
  }
  Documents(at::Tensor saved_lengths, at::Tensor saved_before)
      : lengths(std::move(saved_lengths)), before(std::move(saved_before)) {}
  bool any() const { return lengths.defined(); }
};

// Numbers before each document in tensors of so many a token; one list for those that have the
// same.
class Offsets {
 public:
  explicit Offsets(const Documents& documents) : documents_(documents) {}
  void* of(int64_t per_token) {
    at::Tensor& held = by_size_[per_token];
    if (!held.defined()) held = documents_.before * per_token;
    return held.data_ptr();
  }

 private:
  const Documents& documents_;
  std::map<int64_t, at::Tensor> by_size_;
};

CudnnAttentionShape shape_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const Documents& documents, int64_t max_length, double scale,
                             int64_t window) {
  CudnnAttentionShape s;
  s.device = q.device().index();
  s.rows = documents.any() ? documents.lengths.size(0) : q.size(0);
  s.seq_len = documents.any() ? max_length : q.size(1);
  s.packed_tokens = documents.any() ? q.size(0) * q.size(1) : 0;
  s.heads = q.size(2), s.kv_heads = k.size(2), s.head_dim = q.size(3);
  s.window = window < s.seq_len ? window : 0;
  s.scale = scale;
  s.q = strides_of(q), s.k = strides_of(k), s.v = strides_of(v);
  return s;
}

void run(const CudnnAttentionShape& shape, CudnnAttentionTensors tensors,
         const Documents& documents, const at::Tensor& on) {
  Offsets offsets(documents);
  if (documents.any()) {
    tensors.lengths = documents.lengths.data_ptr();
    tensors.before_q = offsets.of(shape.q.token), tensors.before_k = offsets.of(shape.k.token);
    tensors.before_v = offsets.of(shape.v.token);
    tensors.before_out = offsets.of(shape.heads * shape.head_dim);
    tensors.before_dkv = offsets.of(shape.kv_heads * shape.head_dim);
    tensors.before_lse = offsets.of(shape.heads);
  }
  const at::Tensor workspace =
      at::empty({cudnn_attention_plans.workspace_bytes(shape)}, on.options().dtype(at::kByte));
  tensors.workspace = workspace.data_ptr();
  cudnn_attention_plans.run(shape, tensors);
}

class CudnnAttentionFn : public torch::autograd::Function<CudnnAttentionFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const at::Tensor* bounds, int64_t max_length,
                            double scale, int64_t window) {
    const c10::DeviceGuard guard(q_in.device());
    const bool packed = bounds->defined();
    const at::Tensor q = readable(q_in, packed), k = readable(k_in, packed),
                     v = readable(v_in, packed);
    const int64_t batch = q.size(0), seq_len = q.size(1), heads = q.size(2);
    const Documents documents(*bounds, batch * seq_len);
    const at::Tensor out = at::empty(q.sizes(), q.options());
    const at::Tensor lse =
        at::empty(packed ? std::vector{batch * seq_len, heads} : std::vector{batch, heads, seq_len},
                  q.options().dtype(at::kFloat));
    run(shape_of(q, k, v, documents, max_length, scale, window),
        {.q = q.data_ptr(),
         .k = k.data_ptr(),
         .v = v.data_ptr(),
         .out = out.data_ptr(),
         .log_sum_exp = lse.data_ptr()},
        documents, q);
    ctx->save_for_backward({q, k, v, out, lse, documents.lengths, documents.before});
    ctx->saved_data["max_length"] = max_length;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const c10::DeviceGuard guard(q.device());
    const Documents documents(saved[5], saved[6]);
    CudnnAttentionShape shape =
        shape_of(q, k, v, documents, ctx->saved_data["max_length"].toInt(),
                 ctx->saved_data["scale"].toDouble(), ctx->saved_data["window"].toInt());
    shape.backward = true;
    const at::Tensor dout = readable(grads[0], /*packed=*/true),
                     dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()),
                     dv = at::empty(v.sizes(), v.options());
    run(shape,
        {.q = q.data_ptr(),
         .k = k.data_ptr(),
         .v = v.data_ptr(),
         .out = saved[3].data_ptr(),
         .log_sum_exp = saved[4].data_ptr(),
         .dout = dout.data_ptr(),
         .dq = dq.data_ptr(),
         .dk = dk.data_ptr(),
         .dv = dv.data_ptr()},
        documents, q);
    return {dq, dk, dv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool cudnn_attention_supports(const at::Tensor& q, int64_t max_length) {
  const auto& context = at::globalContext();
  return q.is_cuda() && q.scalar_type() == at::kBFloat16 && q.size(3) % 16 == 0 &&
         q.size(3) <= 256 && q.size(1) > 1 && max_length > 1 && context.userEnabledCuDNNSDP() &&
         !context.deterministicAlgorithms() && cudnn_attention_plans.works_on &&
         cudnn_attention_plans.works_on(q.device().index());
}

at::Tensor cudnn_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& bounds, int64_t max_length, double scale,
                           int64_t window) {
  if (k.scalar_type() != q.scalar_type() || v.scalar_type() != q.scalar_type())
    throw Error("cudnn_attention: q is {}, k {}, v {}; they must agree",
                c10::toString(q.scalar_type()), c10::toString(k.scalar_type()),
                c10::toString(v.scalar_type()));
  return CudnnAttentionFn::apply(q, k, v, &bounds, max_length, scale, window);
}

}  // namespace ceiling
