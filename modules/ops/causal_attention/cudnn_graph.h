// Attention as a graph of NVIDIA's cudnn-frontend, a library of headers over libcudnn's C
// interface.
#pragma once
// torch has another version of it inside, and exports some of its templates: ours go by another
// name.
#define cudnn_frontend ceiling_cudnn_frontend
#define CUDNN_FRONTEND_SKIP_JSON_LIB
// An engine of it that we never use compiles kernels: its NVRTC is to be looked up when called for,
// else the library that this ends in could not be opened without it. cuDNN itself and the CUDA
// runtime are linked in the ordinary way.
#include <cuda_runtime.h>
#include <cudnn.h>
#include <dlfcn.h>

#include <cstring>

#include <cudnn_frontend_shim.h>
#define HMODULE void*
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend/experimental/nvrtc_shim.h>
#undef NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>

#include <memory>
#include <unordered_map>

#include "modules/ops/causal_attention/cudnn_plans.h"

namespace ceiling::cudnn {

namespace fe = cudnn_frontend;
using fe::graph::Tensor_attributes;
using Tensor = std::shared_ptr<Tensor_attributes>;

// The names of tensors in a graph.
enum Uid : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLogSumExp,
  kDout,
  kDq,
  kDk,
  kDv,
  kLengths,
  kBeforeQ,
  kBeforeK,
  kBeforeV,
  kBeforeOut,
  kBeforeDkv,
  kBeforeLse
};

class AttentionGraph {
 public:
  explicit AttentionGraph(const CudnnAttentionShape& shape)
      : shape_(shape), graph(std::make_shared<fe::graph::Graph>()) {
    graph->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT)
        .set_sm_version(90);  // the only one that is let through; else each graph asks the device
    if (packed()) lengths_ = list("lengths", kLengths, shape.rows, fe::DataType_t::INT32);
    const Tensor q = input("q", kQ, shape.heads, shape.q, kBeforeQ),
                 k = input("k", kK, shape.kv_heads, shape.k, kBeforeK),
                 v = input("v", kV, shape.kv_heads, shape.v, kBeforeV);
    shape.backward ? backward(q, k, v) : forward(q, k, v);
  }

 private:
  const CudnnAttentionShape shape_;

 public:
  const std::shared_ptr<fe::graph::Graph> graph;

 private:
  bool packed() const { return shape_.packed_tokens > 0; }

  Tensor list(const char* name, Uid uid, int64_t size, fe::DataType_t type) {
    return graph->tensor(Tensor_attributes()
                             .set_name(name)
                             .set_uid(uid)
                             .set_dim({size, 1, 1, 1})
                             .set_stride({1, 1, 1, 1})
                             .set_data_type(type));
  }
  // One list for all tensors that share it.
  Tensor before(Uid uid) {
    Tensor& held = before_[uid];
    if (!held) held = list("before", uid, shape_.rows + 1, fe::DataType_t::INT64);
    return held;
  }
  // cuDNN's order of dimensions is batch, heads, time, numbers of a head.
  void place(Tensor_attributes& tensor, Uid uid, int64_t heads, const HeadStrides& strides,
             Uid before_uid) {
    tensor.set_uid(uid)
        .set_dim({shape_.rows, heads, shape_.seq_len, shape_.head_dim})
        .set_stride({strides.row, strides.head, strides.token, 1})
        .set_data_type(fe::DataType_t::BFLOAT16);
    if (packed()) tensor.set_ragged_offset(before(before_uid));
  }
  HeadStrides contiguous(int64_t heads) const {
    return {shape_.seq_len * heads * shape_.head_dim, heads * shape_.head_dim, shape_.head_dim};
  }
  Tensor input(const char* name, Uid uid, int64_t heads, const HeadStrides& strides,
               Uid before_uid) {
    Tensor_attributes tensor;
    tensor.set_name(name);
    place(tensor, uid, heads, strides, before_uid);
    return graph->tensor(tensor);
  }
  void output(Tensor& tensor, Uid uid, int64_t heads, Uid before_uid) {
    place(tensor->set_output(true), uid, heads, contiguous(heads), before_uid);
  }
  void place_lse(Tensor_attributes& tensor) {
    const int64_t heads = shape_.heads, seq_len = shape_.seq_len;
    tensor.set_uid(kLogSumExp)
        .set_dim({shape_.rows, heads, seq_len, 1})
        .set_data_type(fe::DataType_t::FLOAT);
    // Packed, else its size and that of the workspace would grow with documents times seq_len.
    if (packed())
      tensor.set_stride({seq_len * heads, 1, heads, 1}).set_ragged_offset(before(kBeforeLse));
    else
      tensor.set_stride({heads * seq_len, seq_len, 1, 1});
  }
  // Which keys a query sees: in a document (lengths), up to its own, and the last `window` of them.
  template <class Attributes>
  Attributes band(Attributes attributes) const {
    attributes.set_attn_scale(static_cast<float>(shape_.scale))
        .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
        .set_diagonal_band_right_bound(0);
    if (shape_.window > 0) attributes.set_diagonal_band_left_bound(static_cast<int>(shape_.window));
    if (packed())
      attributes.set_padding_mask(true).set_seq_len_q(lengths_).set_seq_len_kv(lengths_);
    return attributes;
  }

  void forward(const Tensor& q, const Tensor& k, const Tensor& v) {
    auto [out, lse] = graph->sdpa(
        q, k, v, band(fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true)));
    output(out, kOut, shape_.heads, kBeforeOut);
    place_lse(lse->set_output(true));
  }
  void backward(const Tensor& q, const Tensor& k, const Tensor& v) {
    const Tensor out = input("out", kOut, shape_.heads, contiguous(shape_.heads), kBeforeOut),
                 dout = input("dout", kDout, shape_.heads, contiguous(shape_.heads), kBeforeOut);
    Tensor_attributes lse;
    lse.set_name("log_sum_exp");
    place_lse(lse);
    auto attributes = band(fe::graph::SDPA_backward_attributes().set_name("attention_backward"));
    if (packed())  // else the workspace is sized for documents of seq_len each
      attributes.set_max_total_seq_len_q(shape_.packed_tokens)
          .set_max_total_seq_len_kv(shape_.packed_tokens);
    auto [dq, dk, dv] =
        graph->sdpa_backward(q, k, v, out, dout, graph->tensor(lse), std::move(attributes));
    output(dq, kDq, shape_.heads, kBeforeOut);
    output(dk, kDk, shape_.kv_heads, kBeforeDkv);
    output(dv, kDv, shape_.kv_heads, kBeforeDkv);
  }

  Tensor lengths_;
  std::unordered_map<int64_t, Tensor> before_;
};

}  // namespace ceiling::cudnn
