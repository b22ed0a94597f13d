// Part of libceiling_cuda.so, if cuDNN's headers were there: plans of cuDNN's attention, kept by
// shape. Nothing links libcudnn: torch has loaded it, and its symbols are found through torch.
#include <ATen/cudnn/Handle.h>
#include <cuda_runtime.h>
#include <spdlog/fmt/fmt.h>

#include "base/error.h"
#include "modules/ops/causal_attention/cudnn_graph.h"
#include "modules/ops/plans.h"

namespace ceiling {
namespace {

// The one that torch 2.11 comes with. Known faults of older ones on an H100: gradients of packed
// documents with an unset workspace (before 9.18, NVIDIA/TransformerEngine issue 2186), windows
// past 1,024 keys (9.14), lengths copied from the host for rows that are not whole tiles (to 9.15).
constexpr size_t kOldestVersion = 91900;

bool works_on(int device) {
  int major = 0;
  return cudnnGetVersion() >= kOldestVersion &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major == 9;
}

void check(cudnn::fe::error_t status, const char* step, const CudnnAttentionShape& s) {
  if (status.is_good()) return;
  throw Error(
      "causal_attention: cuDNN {} cannot {} {} of {} {} of at most {} tokens, {} and {} heads of "
      "{}, window {}: {}. Build with cmake -DCEILING_CUDNN=off to use FlashAttention instead, and "
      "please report it",
      cudnnGetVersion(), step, s.backward ? "the backward pass" : "attention", s.rows,
      s.packed_tokens > 0 ? "documents" : "rows", s.seq_len, s.heads, s.kv_heads, s.head_dim,
      s.window, status.get_message());
}

// cuDNN does not promise that a plan may be used by two at a time.
struct Plan {
  explicit Plan(const CudnnAttentionShape& shape) : graph(cudnn::AttentionGraph(shape).graph) {
    check(graph->build(at::native::getCudnnHandle(), {cudnn::fe::HeurMode_t::A}), "plan", shape);
    check(graph->get_workspace_size(workspace_bytes), "plan", shape);
  }
  std::shared_ptr<cudnn::fe::graph::Graph> graph;
  int64_t workspace_bytes = 0;
};

KeptPlans<CudnnAttentionShape, Plan>& plans() { return kept_plans<CudnnAttentionShape, Plan>(); }

int64_t workspace_bytes(const CudnnAttentionShape& shape) {
  return plans().with(shape, [](const Plan& plan) { return plan.workspace_bytes; });
}

std::unordered_map<int64_t, void*> pointers(const CudnnAttentionShape& shape,
                                            const CudnnAttentionTensors& t) {
  std::unordered_map<int64_t, void*> all = {{cudnn::kQ, t.q},
                                            {cudnn::kK, t.k},
                                            {cudnn::kV, t.v},
                                            {cudnn::kOut, t.out},
                                            {cudnn::kLogSumExp, t.log_sum_exp}};
  if (shape.backward)
    all.insert(
        {{cudnn::kDout, t.dout}, {cudnn::kDq, t.dq}, {cudnn::kDk, t.dk}, {cudnn::kDv, t.dv}});
  if (shape.packed_tokens == 0) return all;
  all.insert({{cudnn::kLengths, t.lengths},
              {cudnn::kBeforeQ, t.before_q},
              {cudnn::kBeforeK, t.before_k},
              {cudnn::kBeforeV, t.before_v},
              {cudnn::kBeforeOut, t.before_out},
              {cudnn::kBeforeLse, t.before_lse}});
  if (shape.backward) all.insert({cudnn::kBeforeDkv, t.before_dkv});
  return all;
}

void run(const CudnnAttentionShape& shape, const CudnnAttentionTensors& tensors) {
  auto by_uid = pointers(shape, tensors);
  plans().with(shape, [&](const Plan& plan) {
    // The handle is the thread's own and has torch's current stream.
    check(plan.graph->execute(at::native::getCudnnHandle(), by_uid, tensors.workspace), "run",
          shape);
  });
}

[[maybe_unused]] const bool registered = [] {
  cudnn_attention_plans = {works_on, workspace_bytes, run};
  return true;
}();

}  // namespace
}  // namespace ceiling
