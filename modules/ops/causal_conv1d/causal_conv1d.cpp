#include "modules/ops/causal_conv1d/causal_conv1d.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/causal_conv1d/cuda.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor unit_stride(const at::Tensor& x) {
  return x.stride(2) == 1 || x.size(2) == 1 ? x : x.contiguous();
}

// What both passes read; keeps the converted tensors alive.
struct Inputs {
  at::Tensor x, taps, bias, state, start, zeros;
  CausalConv1dParams params{};

  Inputs(const at::Tensor& x_in, const at::Tensor& weight, const at::Tensor& bias_in,
         const at::Tensor& state_in, const at::Tensor& start_in, bool silu)
      : x(unit_stride(x_in)),
        taps(weight.select(1, 0).to(wide_type(x_in)).t().contiguous()),
        zeros(at::zeros({x_in.size(2)}, x_in.options())) {
    const auto wide = x.options().dtype(wide_type(x));
    bias = bias_in.defined() ? bias_in.to(wide_type(x)).contiguous() : at::zeros({x.size(2)}, wide);
    if (state_in.defined()) state = state_in.contiguous();
    if (start_in.defined()) start = start_in.contiguous();
    CausalConv1dParams& p = params;
    p.type = cpu_type(x, "causal_conv1d"), p.silu = silu;
    p.batch = x.size(0), p.seq_len = x.size(1), p.channels = x.size(2), p.width = weight.size(2);
    p.x = x.const_data_ptr(), p.x_batch_stride = x.stride(0), p.x_time_stride = x.stride(1);
    if (state.defined()) p.state = state.const_data_ptr();
    p.zeros = zeros.const_data_ptr();
    if (start.defined()) p.start = start.const_data_ptr<uint8_t>();
    p.weight = taps.const_data_ptr(), p.bias = bias.const_data_ptr();
  }
  bool cpu() const { return x.device().is_cpu(); }
  // Rows of partial weight gradients, on a CPU also of tasks.
  int64_t pieces() const {
    return params.batch * (cpu() ? conv_blocks(params.seq_len)
                                 : (params.seq_len + kConvGpuTokens - 1) / kConvGpuTokens);
  }
};

class CausalConv1dFn : public torch::autograd::Function<CausalConv1dFn> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                               const std::optional<at::Tensor>& weight_grad,
                               const std::optional<at::Tensor>& bias,
                               const std::optional<at::Tensor>& bias_grad,
                               const std::optional<at::Tensor>& state, const at::Tensor* start,
                               bool silu) {
    Inputs in(x, weight, bias.value_or(at::Tensor()), state.value_or(at::Tensor()), *start, silu);
    CausalConv1dParams& p = in.params;
    const at::Tensor y = at::empty({p.batch, p.seq_len, p.channels}, x.options()),
                     last = at::empty({p.batch, p.width - 1, p.channels}, x.options());
    p.y = y.mutable_data_ptr(), p.state_out = last.mutable_data_ptr();
    if (in.cpu())
      at::parallel_for(0, in.pieces(), 1,
                       [&](int64_t b, int64_t e) { causal_conv1d_forward(p, b, e); });
    else
      launch(causal_conv1d_forward_cuda, p, x);
    ctx->save_for_backward({in.x, weight, bias.value_or(at::Tensor()), in.state});
    ctx->saved_data["weight_grad"] = weight_grad.value_or(at::Tensor());
    ctx->saved_data["bias_grad"] = bias_grad.value_or(at::Tensor());
    ctx->saved_data["start"] = *start;
    ctx->saved_data["silu"] = silu;
    ctx->set_materialize_grads(false);
    return {y, last};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    Inputs in(saved[0], saved[1], saved[2], saved[3], ctx->saved_data["start"].toTensor(),
              ctx->saved_data["silu"].toBool());
    CausalConv1dParams& p = in.params;
    const at::Tensor dy = grads[0].defined()
                              ? grads[0].contiguous()
                              : at::zeros({p.batch, p.seq_len, p.channels}, in.x.options());
    const at::Tensor dlast = grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    const at::Tensor dx = at::empty(dy.sizes(), in.x.options());
    const at::Tensor dstate = in.state.defined() ? at::empty_like(in.state) : at::Tensor();
    const auto wide = in.taps.options();
    const at::Tensor partial = at::empty({in.pieces(), p.width + 1, p.channels}, wide);
    p.dy = dy.const_data_ptr(), p.dx = dx.mutable_data_ptr();
    if (dlast.defined()) p.dstate_out = dlast.const_data_ptr();
    if (dstate.defined()) p.dstate = dstate.mutable_data_ptr();
    p.partial = partial.mutable_data_ptr();
    if (in.cpu())
      at::parallel_for(0, in.pieces(), 1, [&](int64_t b, int64_t e) {
        const at::Tensor workspace = at::empty({p.width + 1, p.channels}, wide);
        CausalConv1dParams mine = p;
        mine.workspace = workspace.mutable_data_ptr();
        causal_conv1d_backward(mine, b, e);
      });
    else
      launch(causal_conv1d_backward_cuda, p, in.x);
    const at::Tensor sums = partial.sum(0);  // [W + 1, C]
    ctx->saved_data["weight_grad"].toTensor().select(1, 0).add_(sums.narrow(0, 0, p.width).t());
    if (saved[2].defined()) ctx->saved_data["bias_grad"].toTensor().add_(sums[p.width]);
    const at::Tensor none;
    return {dx, none, none, none, none, dstate, none, none};
  }
};

void check(const at::Tensor& x, const at::Tensor& weight, const Parameter* bias,
           const at::Tensor& state, const Segments& segments) {
  if (x.dim() != 3 || x.size(1) < 1)
    throw Error("causal_conv1d: x must be [B, T, C] with at least one token");
  if (weight.dim() != 3 || weight.size(0) != x.size(2) || weight.size(1) != 1)
    throw Error("causal_conv1d: the weight must be [C, 1, W], with the {} channels of x",
                x.size(2));
  if (weight.size(2) < 2 || weight.size(2) > kConvMaxWidth)
    throw Error("causal_conv1d: a kernel of {} taps is not supported, use 2 to {}", weight.size(2),
                kConvMaxWidth);
  if (bias && (bias->value.dim() != 1 || bias->value.size(0) != x.size(2)))
    throw Error("causal_conv1d: the bias must be [C], with the {} channels of x", x.size(2));
  if (state.defined() && (state.dim() != 3 || state.size(0) != x.size(0) ||
                          state.size(1) != weight.size(2) - 1 || state.size(2) != x.size(2)))
    throw Error("causal_conv1d: the state must be [B, W - 1, C], the last inputs");
  if (segments.any() && segments.start.sizes() != x.sizes().slice(0, 2))
    throw Error("causal_conv1d: the segments must be [B, T], as x is");
  for (const at::Tensor& other : {weight, bias ? bias->value : weight, state}) {
    if (!other.defined()) continue;
    if (other.scalar_type() != x.scalar_type())
      throw Error("causal_conv1d: x, weight, bias and state differ in dtype");
    if (other.device() != x.device())
      throw Error("causal_conv1d: x, weight, bias and state are on different devices");
  }
}

}  // namespace

CausalConv1dOutput causal_conv1d(const at::Tensor& x, const Parameter& weight,
                                 const Parameter* bias, const at::Tensor& state,
                                 const Segments& segments, bool silu) {
  check(x, weight.value, bias, state, segments);
  if (!x.device().is_cpu() && x.scalar_type() == at::kDouble)
    return causal_conv1d_reference(x, use(weight), bias ? use(*bias) : at::Tensor(), state,
                                   segments, silu);
  const variable_list out = CausalConv1dFn::apply(
      x, weight.value, if_defined(weight.grad), bias ? if_defined(bias->value) : std::nullopt,
      bias ? if_defined(bias->grad) : std::nullopt, if_defined(state), &segments.start, silu);
  return {out[0], out[1]};
}

}  // namespace ceiling
