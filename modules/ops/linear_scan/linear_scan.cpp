#include "modules/ops/linear_scan/linear_scan.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/linear_scan/cuda.h"
#include "modules/ops/linear_scan/reference.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor unit_stride(const at::Tensor& x) {
  return x.stride(2) == 1 || x.size(2) == 1 ? x : x.contiguous();
}
ScanRows rows_of(const at::Tensor& x) { return {x.const_data_ptr(), x.stride(0), x.stride(1)}; }
const void* data_of(const at::Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }

// The arguments of one call: inputs, state, parameters of the gates, starts of documents.
struct Call {
  const at::Tensor& input(int64_t k) const { return saved[static_cast<size_t>(k)]; }
  const at::Tensor& state() const { return saved[3]; }
  const at::Tensor& parameter(int64_t k) const { return saved[static_cast<size_t>(4 + k)]; }
  bool gated() const { return saved[2].defined(); }
  int64_t inputs() const { return gated() ? 3 : 2; }

  LinearScanParams params() const {
    const at::Tensor& x = input(0);
    LinearScanParams p{};
    p.type = cpu_type(x, "linear_scan");
    p.batch = x.size(0), p.seq_len = x.size(1), p.dim = x.size(2);
    for (int64_t k = 0; k < inputs(); ++k) p.input[k] = rows_of(input(k));
    for (int64_t k = 0; k < 3; ++k) p.parameter[k] = data_of(parameter(k));
    p.start = static_cast<const unsigned char*>(data_of(start));
    p.state_in = data_of(state());
    return p;
  }

  variable_list saved;  // input 0 .. 2, state, parameter 0 .. 2; undefined where there is none
  at::Tensor start;
};

void run(const Call& call, const LinearScanParams& p, bool backward) {
  const at::Tensor& x = call.input(0);
  if (x.device().is_cpu()) {
    const auto kernel = call.gated() ? (backward ? rg_lru_backward : rg_lru_forward)
                                     : (backward ? linear_scan_backward : linear_scan_forward);
    at::parallel_for(0, p.batch * ((p.dim + kScanChannels - 1) / kScanChannels), 1,
                     [&](int64_t b, int64_t e) { kernel(p, b, e); });
    return;
  }
  GpuLinearScanParams there{p, 1, p.seq_len, nullptr};
  there.segment_len = scan_segment_len(p.batch, p.seq_len, p.dim);
  there.segments = (p.seq_len + there.segment_len - 1) / there.segment_len;
  at::Tensor across;
  if (there.segments > 1) {
    across = at::empty({there.segments, p.batch, 2, p.dim}, x.options().dtype(at::kFloat));
    there.across = across.mutable_data_ptr<float>();
  }
  const auto& kernel = call.gated()
                           ? (backward ? rg_lru_backward_cuda : rg_lru_forward_cuda)
                           : (backward ? linear_scan_backward_cuda : linear_scan_forward_cuda);
  launch(kernel, there, x);
}

int64_t partials_of(const LinearScanParams& p, bool cpu) {
  if (cpu) return p.batch;
  const int64_t segment_len = scan_segment_len(p.batch, p.seq_len, p.dim);
  return p.batch * ((p.seq_len + segment_len - 1) / segment_len);
}

// Both recurrences: rg_lru has a third input and parameters.
class ScanFn : public torch::autograd::Function<ScanFn> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& first,
                               const at::Tensor& second, const std::optional<at::Tensor>& third,
                               const std::optional<at::Tensor>& state_in,
                               const std::optional<at::Tensor>& lambda,
                               const std::optional<at::Tensor>& recurrence_bias,
                               const std::optional<at::Tensor>& input_bias, const at::Tensor* start,
                               const std::vector<at::Tensor>* parameter_grads) {
    const at::ScalarType wide = wide_type(first);
    Call call;
    call.saved = {unit_stride(first), unit_stride(second),
                  third ? unit_stride(*third) : at::Tensor(),
                  state_in ? state_in->to(wide).contiguous() : at::Tensor()};
    for (const auto& parameter : {lambda, recurrence_bias, input_bias})
      call.saved.push_back(parameter ? parameter->to(wide).contiguous() : at::Tensor());
    if (start->defined()) call.start = start->contiguous();
    const at::Tensor h = at::empty(first.sizes(), first.options());
    const at::Tensor state = at::empty({first.size(0), first.size(2)}, first.options().dtype(wide));
    LinearScanParams p = call.params();
    p.h = h.mutable_data_ptr(), p.state_out = state.mutable_data_ptr();
    run(call, p, false);
    variable_list saved = call.saved;
    saved.push_back(h);
    ctx->save_for_backward(saved);
    ctx->saved_data["start"] = call.start;
    ctx->saved_data["grads"] = *parameter_grads;
    ctx->saved_data["state dtype"] = state_in ? state_in->scalar_type() : wide;
    ctx->set_materialize_grads(false);
    return {h, state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Call call;
    call.saved = ctx->get_saved_variables();
    call.start = ctx->saved_data["start"].toTensor();
    const at::Tensor h = call.saved[7], &x = call.input(0);
    const auto wide = x.options().dtype(wide_type(x));
    const at::Tensor dh =
        grads[0].defined() ? unit_stride(grads[0]) : at::zeros(h.sizes(), h.options());
    const at::Tensor dstate_out = grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    LinearScanParams p = call.params();
    p.h = h.mutable_data_ptr(), p.dh = rows_of(dh), p.dstate_out = data_of(dstate_out);
    variable_list out(9);
    for (int64_t k = 0; k < call.inputs(); ++k) {
      at::Tensor& dinput = out[static_cast<size_t>(k)];
      dinput = at::empty(x.sizes(), x.options());
      p.dinput[k] = dinput.mutable_data_ptr();
    }
    if (call.state().defined()) {
      out[3] = at::empty_like(call.state());
      p.dstate_in = out[3].mutable_data_ptr();
    }
    at::Tensor partial;
    if (call.gated()) {
      partial = at::empty({partials_of(p, x.device().is_cpu()), 3, p.dim}, wide);
      p.dparameter_partial = partial.mutable_data_ptr();
    }
    run(call, p, true);
    if (out[3].defined()) out[3] = out[3].to(ctx->saved_data["state dtype"].toScalarType());
    if (call.gated()) {
      const at::Tensor sums = partial.sum(0);
      const auto parameter_grads = ctx->saved_data["grads"].toTensorVector();
      for (size_t k = 0; k < parameter_grads.size(); ++k)
        if (parameter_grads[k].defined())
          parameter_grads[k].view(-1).add_(sums.select(0, static_cast<int64_t>(k)));
    }
    return out;
  }
};

void check(const char* op, at::TensorList inputs, const at::Tensor& state,
           const Segments& segments) {
  const at::Tensor& x = inputs[0];
  cpu_type(x, op);
  for (const at::Tensor& other : inputs)
    if (x.dim() != 3 || other.sizes() != x.sizes())
      throw Error("{}: all inputs must be [B, T, D], of one shape", op);
  if (x.size(1) < 1) throw Error("{}: a sequence of no tokens", op);
  for (const at::Tensor& other : inputs) {
    if (other.scalar_type() != x.scalar_type()) throw Error("{}: the inputs differ in dtype", op);
    if (other.device() != x.device()) throw Error("{}: the inputs are on different devices", op);
  }
  if (state.defined() &&
      (state.dim() != 2 || state.size(0) != x.size(0) || state.size(1) != x.size(2)))
    throw Error("{}: the state must be [{}, {}]", op, x.size(0), x.size(2));
  if (segments.any() && segments.start.sizes() != x.sizes().slice(0, 2))
    throw Error("{}: the segments must be [{}, {}], as the inputs are", op, x.size(0), x.size(1));
}

// All but float64 on a GPU, which is there to test other kernels against.
bool has_kernel(const at::Tensor& x) {
  return x.device().is_cpu() || x.scalar_type() != at::kDouble;
}

}  // namespace

LinearScanOutput linear_scan(const at::Tensor& a, const at::Tensor& b, const at::Tensor& state,
                             const Segments& segments) {
  check("linear_scan", {a, b}, state, segments);
  if (!has_kernel(b)) return linear_scan_reference(a, b, state, segments);
  const std::vector<at::Tensor> no_grads;
  const variable_list out = ScanFn::apply(a, b, std::nullopt, if_defined(state), std::nullopt,
                                          std::nullopt, std::nullopt, &segments.start, &no_grads);
  return {out[0], out[1]};
}

LinearScanOutput rg_lru(const at::Tensor& x, const at::Tensor& recurrence, const at::Tensor& input,
                        const RgLruParameters& parameters, const at::Tensor& state,
                        const Segments& segments) {
  check("rg_lru", {x, recurrence, input}, state, segments);
  std::vector<at::Tensor> grads;
  for (const Parameter* parameter :
       {&parameters.lambda, &parameters.recurrence_bias, &parameters.input_bias}) {
    if (parameter->value.numel() != x.size(2))
      throw Error("rg_lru: {} must hold {} numbers, one for each channel", parameter->name,
                  x.size(2));
    if (parameter->value.device() != x.device())
      throw Error("rg_lru: {} is on {}, the inputs on {}", parameter->name,
                  parameter->value.device().str(), x.device().str());
    grads.push_back(parameter->grad);
  }
  if (!has_kernel(x))
    return rg_lru_reference(x, recurrence, input, use(parameters.lambda).flatten(),
                            use(parameters.recurrence_bias).flatten(),
                            use(parameters.input_bias).flatten(), state, segments);
  const variable_list out = ScanFn::apply(
      x, recurrence, if_defined(input), if_defined(state), if_defined(parameters.lambda.value),
      if_defined(parameters.recurrence_bias.value), if_defined(parameters.input_bias.value),
      &segments.start, &grads);
  return {out[0], out[1]};
}

}  // namespace ceiling
