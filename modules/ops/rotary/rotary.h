// Rotary positions, fused with taking a projection apart (Su et al., arXiv 2104.09864; RetNet's
// rotation is the same).
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "modules/ops/gradient_place.h"

namespace ceiling {

// theta_i = base^(-2i / head_dim), i < head_dim / 2: RoPE, and fla's RetNet.
std::vector<double> rope_frequencies(int64_t head_dim, double base);
// theta_i = 10000^(-linspace(0, 1, head_dim / 2)), both ends included: torchscale's RetNet.
std::vector<double> retnet_torchscale_frequencies(int64_t head_dim);

// cos and sin of position * theta, from angles in float64: a table built in bfloat16 would lose the
// position.
class RotaryTable {
 public:
  explicit RotaryTable(std::vector<double> frequencies) : frequencies_(std::move(frequencies)) {}
  // [at least n_positions, 2, head_dim / 2]: cosines, then sines; `dtype` float32 or float64. Grows
  // by doubling.
  const at::Tensor& table(int64_t n_positions, at::ScalarType dtype, at::Device device);

 private:
  std::vector<double> frequencies_;
  std::map<std::pair<at::ScalarType, at::DeviceType>, at::Tensor> tables_;
};

struct RotaryLayout {
  int64_t n_q_heads = 0, n_k_heads = 0, head_dim = 0;
  std::vector<int64_t> rest;  // widths of what follows q and k
  bool interleaved = false;   // pairs (2i, 2i+1) as torchscale and Meta; else (i, i + head_dim / 2)
                              // as Hugging Face and fla
  double q_scale = 1, k_scale = 1;
  // The first so many channels of a head turn, in half-split pairs (i, i + rotary_dim / 2); the
  // rest is only scaled. 0: all of them.
  int64_t rotary_dim = 0;
  int64_t turned() const { return rotary_dim > 0 ? rotary_dim : head_dim; }
};

struct RotaryOutput {
  at::Tensor q, k;  // [B, T, n_q_heads, head_dim], [B, T, n_k_heads, head_dim]: rotated and scaled
  std::vector<at::Tensor> rest;       // [B, T, width] views of x
  std::vector<GradientPlace> places;  // where their gradients need no copy
};

// x [B, T, W], laid out as q | k | rest...;  position [B, T] int32, or undefined: 0 .. T-1 in every
// row; `table` of layout.turned() / 2 frequencies. One pass over q and k; the rest is not copied.
// The backward makes one gradient [B, T, W]: rotation by the negative angle, and what does not lie
// there yet copied. `position_bound`: all positions are below it; 0: look at them, for which a GPU
// must be waited for.
RotaryOutput split_rotary(const at::Tensor& x, const at::Tensor& position, RotaryTable& table,
                          const RotaryLayout& layout, int64_t position_bound = 0);

// [B, T, H, head_dim] rotated in plain ATen by angles taken from `table` rows: the oracle.
at::Tensor rotate_reference(const at::Tensor& heads, const at::Tensor& cos, const at::Tensor& sin,
                            bool interleaved);

}  // namespace ceiling
