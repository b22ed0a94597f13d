#include "modules/ops/grad_norm/grad_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include "modules/ops/checks.h"
#include "modules/ops/device.h"
#include "modules/ops/grad_norm/cuda.h"

namespace ceiling {

at::Tensor squared_norm(const at::Tensor& flat) {
  if (!flat.is_contiguous() ||
      (flat.scalar_type() != at::kFloat && flat.scalar_type() != at::kDouble))
    throw Error("squared_norm: a contiguous float32 or float64 buffer is needed");
  const int64_t blocks = (flat.numel() + kSquaredNormBlock - 1) / kSquaredNormBlock;
  const at::Tensor partial = at::empty({blocks}, flat.options().dtype(at::kDouble));
  SquaredNormParams p{.type = cpu_type(flat, "squared_norm"),
                      .n = flat.numel(),
                      .flat = flat.const_data_ptr(),
                      .partial = partial.mutable_data_ptr<double>()};
  if (!flat.device().is_cpu()) {
    if (flat.scalar_type() != at::kFloat)
      throw Error("squared_norm: on a GPU the buffer must be float32");
    launch(squared_norm_cuda, p, flat);
    return partial.sum();
  }
  at::parallel_for(0, blocks, 1, [&](int64_t b, int64_t e) { squared_norm_blocks(p, b, e); });
  double total = 0;
  for (int64_t i = 0; i < blocks; ++i) total += p.partial[i];
  return at::empty({}, flat.options().dtype(at::kDouble)).fill_(total);
}

std::optional<int64_t> first_nonfinite(const at::Tensor& flat) {
  const at::Tensor bad = at::isfinite(flat).logical_not();
  if (!bad.any().item<bool>()) return {};
  return bad.to(at::kInt).argmax(0).item<int64_t>();
}

}  // namespace ceiling
