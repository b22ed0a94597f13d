#include "modules/ops/gated/gated.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "modules/ops/activation_reference.h"
#include "modules/ops/again.h"
#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/gated/cuda.h"

namespace ceiling {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where gate and up, or their gradients, are: the halves of one tensor, or two.
struct Parts {
  explicit Parts(const at::Tensor& both)
      : data{both.mutable_data_ptr(),
             static_cast<char*>(both.mutable_data_ptr()) +
                 both.size(-1) / 2 * static_cast<int64_t>(both.element_size())},
        width(both.size(-1) / 2),
        stride(both.size(-1)) {}
  Parts(const at::Tensor& gate, const at::Tensor& up)
      : data{gate.mutable_data_ptr(), up.mutable_data_ptr()},
        width(gate.size(-1)),
        stride(gate.size(-1)) {}
  void* data[2];
  int64_t width, stride;
};

GatedParams params_of(const Parts& parts, const at::Tensor& of, Activation activation) {
  GatedParams p{};
  p.type = cpu_type(of, "gated"), p.activation = activation;
  p.width = parts.width, p.stride = parts.stride;
  p.gate = parts.data[0], p.up = parts.data[1];
  return p;
}

at::Tensor run_forward(const Parts& parts, const at::Tensor& of, Activation activation) {
  auto shape = of.sizes().vec();
  shape.back() = parts.width;
  const at::Tensor y = at::empty(shape, of.options());
  GatedParams p = params_of(parts, of, activation);
  p.y = y.mutable_data_ptr();
  if (of.device().is_cpu())
    at::parallel_for(0, y.numel() / p.width, row_grain(p.width),
                     [&](int64_t b, int64_t e) { gated_forward(p, b, e); });
  else
    launch(gated_forward_cuda, {p, y.numel() / p.width}, of);
  return y;
}

void run_backward(const Parts& parts, const at::Tensor& dy, const Parts& gradients,
                  Activation activation) {
  GatedParams p = params_of(parts, dy, activation);
  p.dy = dy.const_data_ptr(), p.dgate = gradients.data[0], p.dup = gradients.data[1];
  if (dy.device().is_cpu())
    at::parallel_for(0, dy.numel() / p.width, row_grain(p.width),
                     [&](int64_t b, int64_t e) { gated_backward(p, b, e); });
  else
    launch(gated_backward_cuda, {p, dy.numel() / p.width}, dy);
}

class GatedFn : public torch::autograd::Function<GatedFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up_in,
                            Activation activation) {
    const at::Tensor gate_up = gate_up_in.contiguous();
    ctx->save_for_backward({gate_up});
    ctx->saved_data["activation"] = static_cast<int64_t>(activation);
    return run_forward(Parts(gate_up), gate_up, activation);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0], dgate_up = at::empty_like(gate_up);
    run_backward(Parts(gate_up), grads[0].contiguous(), Parts(dgate_up),
                 static_cast<Activation>(ctx->saved_data["activation"].toInt()));
    return {dgate_up, at::Tensor()};
  }
};

class GatedPairFn : public torch::autograd::Function<GatedPairFn> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_in,
                            const at::Tensor& up_in, Activation activation) {
    const at::Tensor gate = gate_in.contiguous(), up = up_in.contiguous();
    ctx->save_for_backward({gate, up});
    ctx->saved_data["activation"] = static_cast<int64_t>(activation);
    return run_forward(Parts(gate, up), gate, activation);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dgate = at::empty_like(saved[0]), dup = at::empty_like(saved[1]);
    run_backward(Parts(saved[0], saved[1]), grads[0].contiguous(), Parts(dgate, dup),
                 static_cast<Activation>(ctx->saved_data["activation"].toInt()));
    return {dgate, dup, at::Tensor()};
  }
};

// All but float64 on a GPU, which is there to test other kernels against.
bool has_kernel(const at::Tensor& x) {
  return x.device().is_cpu() || x.scalar_type() != at::kDouble;
}

}  // namespace

at::Tensor gated(const at::Tensor& gate_up, Activation activation) {
  if (gate_up.dim() < 1 || gate_up.size(-1) % 2 != 0 || gate_up.numel() == 0)
    throw Error(
        "gated: the last dimension must hold gate and up, an even number of channels, got {}",
        gate_up.dim() < 1 ? 0 : gate_up.size(-1));
  if (!has_kernel(gate_up)) return gated_reference(gate_up, activation);
  const at::Tensor y = GatedFn::apply(gate_up, activation);
  add_recipe(y, {{gate_up}, [activation](const std::vector<at::Tensor>& in) {
                   return gated(in[0], activation);
                 }});
  return y;
}

at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, Activation activation) {
  if (gate.dim() < 1 || gate.numel() == 0 || gate.sizes() != up.sizes() ||
      gate.scalar_type() != up.scalar_type() || gate.device() != up.device())
    throw Error("gated: gate and up must be of one shape, dtype and device, and not empty");
  if (!has_kernel(gate)) return gated_reference(at::cat({gate, up}, -1), activation);
  const at::Tensor y = GatedPairFn::apply(gate, up, activation);
  add_recipe(y, {{gate, up}, [activation](const std::vector<at::Tensor>& in) {
                   return gated(in[0], in[1], activation);
                 }});
  return y;
}

at::Tensor gated_reference(const at::Tensor& gate_up, Activation activation) {
  const auto halves = gate_up.to(wide_type(gate_up)).chunk(2, -1);
  return (activate(halves[0], activation) * halves[1]).to(gate_up.scalar_type());
}

}  // namespace ceiling
