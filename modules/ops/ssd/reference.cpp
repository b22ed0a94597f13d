#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/softplus.h>

#include "modules/ops/checks.h"
#include "modules/ops/retention/reference.h"
#include "modules/ops/ssd/ssd.h"

namespace ceiling {

SsdOutput ssd_reference(const at::Tensor& x_in, const at::Tensor& dt, const at::Tensor& b,
                        const at::Tensor& c, const at::Tensor& a_log, const at::Tensor& d,
                        const at::Tensor& dt_bias, const at::Tensor& state,
                        const Segments& segments, const SsdOptions& options) {
  const at::ScalarType wide = wide_type(x_in);
  const at::Tensor x = x_in.to(wide);
  const int64_t repeats = x.size(2) / b.size(2);
  const auto of_heads = [&](const at::Tensor& group) {
    return group.to(wide).repeat_interleave(repeats, 2);
  };
  const at::Tensor delta =
      at::clamp(at::softplus(dt.to(wide) + dt_bias), options.dt_min, options.dt_max);
  const RetentionOutput out = retention_reference(of_heads(c), of_heads(b), delta.unsqueeze(-1) * x,
                                                  -at::exp(a_log) * delta, state, segments);
  return {(out.o + d.unsqueeze(-1) * x).to(x_in.scalar_type()), out.state};
}

}  // namespace ceiling
