#include "modules/ops/rotary/rotary.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/rotary/cuda.h"

namespace ceiling {

std::vector<double> rope_frequencies(int64_t head_dim, double base) {
  std::vector<double> theta;
  for (int64_t i = 0; i < head_dim / 2; ++i)
    theta.push_back(std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  return theta;
}

std::vector<double> retnet_torchscale_frequencies(int64_t head_dim) {
  std::vector<double> theta;
  const int64_t n = head_dim / 2;
  for (int64_t i = 0; i < n; ++i)
    theta.push_back(
        std::pow(10000.0, n == 1 ? 0.0 : -static_cast<double>(i) / static_cast<double>(n - 1)));
  return theta;
}

const at::Tensor& RotaryTable::table(int64_t n_positions, at::ScalarType dtype, at::Device device) {
  at::Tensor& table = tables_[{dtype, device.type()}];
  if (table.defined() && table.size(0) >= n_positions) return table;
  const int64_t rows = std::max(n_positions, table.defined() ? 2 * table.size(0) : int64_t{0});
  const at::Tensor theta =
      at::from_blob(frequencies_.data(), {static_cast<int64_t>(frequencies_.size())}, at::kDouble);
  const at::Tensor angle = at::outer(at::arange(rows, at::kDouble), theta);
  table = at::stack({angle.cos(), angle.sin()}, 1).to(device, dtype);
  return table;
}

at::Tensor rotate_reference(const at::Tensor& heads, const at::Tensor& cos, const at::Tensor& sin,
                            bool interleaved) {
  if (interleaved) {
    const at::Tensor pairs = heads.unflatten(-1, {-1, 2});
    const at::Tensor a = pairs.select(-1, 0), b = pairs.select(-1, 1);
    return at::stack({a * cos - b * sin, b * cos + a * sin}, -1).flatten(-2);
  }
  const auto halves = heads.chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Saved : torch::CustomClassHolder {
  RotaryLayout layout;
  at::Tensor position, table;
  c10::intrusive_ptr<GradientOfWhole> gradient;
  int64_t width = 0;
  std::vector<int64_t> shape;  // B, T
};

// The channel of x with which each part of the rest begins.
std::vector<int64_t> first_channels(const RotaryLayout& layout) {
  std::vector<int64_t> first;
  int64_t channel = (layout.n_q_heads + layout.n_k_heads) * layout.head_dim;
  for (const int64_t width : layout.rest) first.push_back(channel), channel += width;
  return first;
}

RotaryParams params_of(const Saved& saved, CpuType type) {
  RotaryParams p{};
  p.type = type, p.seq_len = saved.shape[1], p.width = saved.width;
  p.n_q_heads = saved.layout.n_q_heads, p.n_k_heads = saved.layout.n_k_heads,
  p.head_dim = saved.layout.head_dim, p.turned = saved.layout.turned();
  p.interleaved = saved.layout.interleaved, p.q_scale = saved.layout.q_scale,
  p.k_scale = saved.layout.k_scale;
  p.table = saved.table.const_data_ptr();
  p.position = saved.position.defined() ? saved.position.const_data_ptr<int>() : nullptr;
  return p;
}

// Read where attention left it, which may be [B, H, T, head_dim] in memory; copied only if its last
// dimension is not contiguous.
RotaryGradient gradient_of(at::Tensor& grad) {
  if (!grad.defined()) return {};
  if (grad.stride(-1) != 1) grad = grad.contiguous();
  // What a dimension of size 1 says of its stride means nothing.
  const auto stride = [&](int64_t d) {
    return d < grad.dim() - 1 && grad.size(d) > 1 ? grad.stride(d) : 0;
  };
  return {grad.const_data_ptr(), stride(0), stride(1), stride(2)};
}

// Outputs q, k, then the rest as detached views of x.
class SplitRotaryFn : public torch::autograd::Function<SplitRotaryFn> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_in,
                               c10::intrusive_ptr<Saved> saved) {
    const at::Tensor x = x_in.contiguous();
    const RotaryLayout& layout = saved->layout;
    const int64_t batch = x.size(0), seq_len = x.size(1);
    const at::Tensor q =
        at::empty({batch, seq_len, layout.n_q_heads, layout.head_dim}, x.options());
    const at::Tensor k =
        at::empty({batch, seq_len, layout.n_k_heads, layout.head_dim}, x.options());
    RotaryParams p = params_of(*saved, cpu_type(x, "rotary"));
    p.x = x.const_data_ptr(), p.q = q.mutable_data_ptr(), p.k = k.mutable_data_ptr();
    if (x.device().is_cpu())
      at::parallel_for(0, batch * seq_len, row_grain(p.width),
                       [&](int64_t b, int64_t e) { rotary_forward(p, b, e); });
    else
      launch(rotary_forward_cuda, {p, batch * seq_len}, x);
    ctx->saved_data["saved"] = c10::IValue::make_capsule(saved);
    ctx->set_materialize_grads(false);
    variable_list out = {q, k};
    const std::vector<int64_t> first = first_channels(layout);
    for (size_t part = 0; part < layout.rest.size(); ++part)
      out.push_back(x.detach().narrow(2, first[part], layout.rest[part]));
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved =
        c10::static_intrusive_pointer_cast<Saved>(ctx->saved_data["saved"].toCapsule());
    const RotaryLayout& layout = saved->layout;
    at::TensorOptions options;
    for (at::Tensor& grad : grads)
      if (grad.defined()) options = grad.options();
    // Parts that lie in their places already are left out.
    std::vector<size_t> to_copy;
    const std::vector<int64_t> first = first_channels(layout);
    for (size_t part = 0; part < layout.rest.size(); ++part)
      if (!saved->gradient->holds(grads[2 + part], first[part])) to_copy.push_back(part);
    const at::Tensor dx = saved->gradient->take(options);
    RotaryParams p = params_of(*saved, cpu_type(dx, "rotary"));
    p.dq = gradient_of(grads[0]), p.dk = gradient_of(grads[1]);
    for (const size_t part : to_copy) {
      p.drest[p.n_rest] = gradient_of(grads[2 + part]);
      p.rest_first[p.n_rest] = first[part], p.rest_width[p.n_rest++] = layout.rest[part];
    }
    p.dx = dx.mutable_data_ptr();
    const int64_t tokens = saved->shape[0] * saved->shape[1];
    if (dx.device().is_cpu())
      at::parallel_for(0, tokens, row_grain(p.width),
                       [&](int64_t b, int64_t e) { rotary_backward(p, b, e); });
    else
      launch(rotary_backward_cuda, {p, tokens}, dx);
    return {dx, at::Tensor()};
  }
};

}  // namespace

RotaryOutput split_rotary(const at::Tensor& x, const at::Tensor& position, RotaryTable& table,
                          const RotaryLayout& layout, int64_t position_bound) {
  int64_t width = (layout.n_q_heads + layout.n_k_heads) * layout.head_dim;
  for (const int64_t part : layout.rest) width += part;
  if (x.dim() != 3 || x.size(2) != width) throw Error("rotary: x must be [B, T, {}]", width);
  if (layout.head_dim % 2 != 0)
    throw Error("rotary: head_dim {} is odd; rotary positions need pairs", layout.head_dim);
  if (layout.rotary_dim % 2 != 0 || layout.rotary_dim < 0 || layout.rotary_dim > layout.head_dim ||
      (layout.interleaved && layout.turned() != layout.head_dim))
    throw Error(
        "rotary: rotary_dim {} must be even and at most head_dim {}, and equal to it with "
        "interleaved pairs",
        layout.rotary_dim, layout.head_dim);
  if (position.defined() && position.sizes() != x.sizes().slice(0, 2))
    throw Error("rotary: position must be [{}, {}], a number for each token", x.size(0), x.size(1));
  if (position.defined() && position.device().is_cpu() && position.min().item<int>() < 0)
    throw Error("rotary: position {} is negative", position.min().item<int>());
  if (static_cast<int64_t>(layout.rest.size()) > kMaxRotaryRest)
    throw Error("rotary: {} parts after q and k, at most {} are supported", layout.rest.size(),
                kMaxRotaryRest);
  const int64_t n_positions = !position.defined()  ? x.size(1)
                              : position_bound > 0 ? position_bound
                                                   : position.max().item<int>() + 1;
  const at::Tensor& angles = table.table(n_positions, wide_type(x), x.device());
  if (x.device().is_cpu() || x.scalar_type() != at::kDouble) {
    auto saved = c10::make_intrusive<Saved>();
    saved->layout = layout, saved->table = angles, saved->width = width,
    saved->shape = {x.size(0), x.size(1)};
    if (position.defined()) saved->position = position.to(at::kInt).contiguous();
    saved->gradient = c10::make_intrusive<GradientOfWhole>(x.sizes().vec());
    const variable_list out = SplitRotaryFn::apply(x, saved);
    RotaryOutput heads{out[0], out[1], {out.begin() + 2, out.end()}, {}};
    const std::vector<int64_t> first = first_channels(layout);
    for (size_t part = 0; part < layout.rest.size(); ++part)
      heads.places.push_back({saved->gradient, first[part], layout.rest[part]});
    return heads;
  }
  // [B or 1, T, 1, turned / 2]
  const at::Tensor rows = position.defined() ? angles.index({position.to(at::kLong)})
                                             : angles.narrow(0, 0, x.size(1)).unsqueeze(0);
  const at::Tensor cos = rows.select(2, 0).unsqueeze(2), sin = rows.select(2, 1).unsqueeze(2);
  std::vector<int64_t> widths = {layout.n_q_heads * layout.head_dim,
                                 layout.n_k_heads * layout.head_dim};
  widths.insert(widths.end(), layout.rest.begin(), layout.rest.end());
  const auto parts = x.split_with_sizes(widths, 2);
  const auto rotated = [&](const at::Tensor& part, double scale) {
    const at::Tensor heads = part.unflatten(2, {-1, layout.head_dim}).to(wide_type(x));
    const at::Tensor turned =
        rotate_reference(heads.narrow(-1, 0, layout.turned()), cos, sin, layout.interleaved);
    const at::Tensor kept = heads.narrow(-1, layout.turned(), layout.head_dim - layout.turned());
    return (at::cat({turned, kept}, -1) * scale).to(x.scalar_type());
  };
  return {rotated(parts[0], layout.q_scale),
          rotated(parts[1], layout.k_scale),
          {parts.begin() + 2, parts.end()},
          std::vector<GradientPlace>(layout.rest.size())};
}

}  // namespace ceiling
