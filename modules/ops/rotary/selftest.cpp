#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/outer.h>

#include <cmath>

#include "base/error.h"
#include "modules/ops/rotary/rotary.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

const RegisterSelftest kSelftest("rotary", [](SelftestReport& report) {
  for (const int64_t head_dim : {6, 64})
    for (const bool interleaved : {false, true})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const RotaryLayout layout{.n_q_heads = 3,
                                  .n_k_heads = 2,
                                  .head_dim = head_dim,
                                  .rest = {head_dim, 2 * head_dim},
                                  .interleaved = interleaved,
                                  .q_scale = 1.5,
                                  .k_scale = 0.25};
        RotaryTable table(rope_frequencies(head_dim, 10000));
        report.differentiable(
            "rotary", fmt::format("head {}{}", head_dim, interleaved ? ", interleaved" : ""),
            [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
              const RotaryOutput out = split_rotary(in[0], {}, table, layout);
              return {out.q, out.k, out.rest[0], out.rest[1]};
            },
            [&](const auto& in, const auto&) -> std::vector<at::Tensor> {
              at::Tensor theta = at::arange(head_dim / 2, at::kDouble);
              theta = (theta * (-2 * std::log(10000.0) / static_cast<double>(head_dim))).exp();
              const at::Tensor angle =
                  at::outer(at::arange(in[0].size(1), at::kDouble), theta).unsqueeze(1);
              const auto heads = [&](int64_t first, int64_t n, double scale) {
                return rotate_reference(in[0]
                                            .narrow(2, first * head_dim, n * head_dim)
                                            .unflatten(2, {n, head_dim}),
                                        angle.cos(), angle.sin(), interleaved) *
                       scale;
              };
              return {heads(0, 3, 1.5), heads(3, 2, 0.25), in[0].narrow(2, 5 * head_dim, head_dim),
                      in[0].narrow(2, 6 * head_dim, 2 * head_dim)};
            },
            {report.random({2, 33, 8 * head_dim})}, {}, dtype, selftest_bound(dtype));
      }
});

}  // namespace
}  // namespace ceiling
