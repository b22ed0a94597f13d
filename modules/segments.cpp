#include "modules/segments.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cummax.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace ceiling {

Segments make_segments(const at::Tensor& document, int64_t room) {
  TORCH_INTERNAL_ASSERT(document.dim() == 2 && document.scalar_type() == at::kInt);
  Segments segments;
  if (room == 0 && !document.select(1, -1).any().item<bool>())
    return segments;  // non-decreasing: the last index tells
  const int64_t batch = document.size(0), seq_len = document.size(1);
  const at::Tensor before =
      at::cat({at::zeros({batch, 1}, document.options()), document.narrow(1, 0, seq_len - 1)}, 1);
  const at::Tensor starts = document.ne(before);
  const at::Tensor index = at::arange(seq_len, document.options()).expand({batch, seq_len});
  segments.document = document;
  segments.start = starts.to(at::kByte);
  segments.position =
      (index - std::get<0>(at::cummax(at::where(starts, index, at::zeros({}, index.options())), 1)))
          .to(at::kInt);
  if (!document.is_cpu()) return segments;
  at::Tensor begins = starts.clone();
  begins.select(1, 0).fill_(true);
  const at::Tensor index_of = begins.flatten().nonzero().flatten().to(at::kInt);
  segments.bounds = at::constant_pad_nd(
      index_of, {0, std::max<int64_t>(1, room - index_of.size(0))}, batch * seq_len);
  return segments;
}

}  // namespace ceiling
