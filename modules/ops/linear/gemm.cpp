#include "modules/ops/linear/gemm.h"

#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "modules/ops/checks.h"
#include "modules/ops/linear/gemm_kernels.h"

namespace ceiling {

namespace {

bool in_whole_pieces(const at::Tensor& x, int64_t stride) {
  return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 &&
         stride * x.element_size() % 16 == 0;
}

std::optional<GemmOperand> operand(const at::Tensor& x) {
  GemmOperand result;
  if (x.stride(1) == 1 && x.stride(0) >= x.size(1))
    result = {false, x.stride(0)};
  else if (x.stride(0) == 1 && x.stride(1) >= x.size(0))
    result = {true, x.stride(1)};
  else
    return std::nullopt;
  return in_whole_pieces(x, result.stride) ? std::optional(result) : std::nullopt;
}

bool has_rows(const at::Tensor& x) {
  return x.stride(1) == 1 && x.stride(0) >= x.size(1) && in_whole_pieces(x, x.stride(0));
}

// Nothing if cuBLASLt does not take it: torch does, which copies what is not aligned.
std::optional<GemmShape> shape_of(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                                  const at::Tensor& addend) {
  if (!gemm_kernels.run || !a.is_cuda() || a.scalar_type() != at::kBFloat16 || a.numel() == 0 ||
      b.numel() == 0)
    return std::nullopt;
  const auto of_a = operand(a), of_b = operand(b);
  if (!of_a || !of_b || !has_rows(out) || (addend.defined() && !has_rows(addend)))
    return std::nullopt;
  return GemmShape{.device = a.device().index(),
                   .m = a.size(0),
                   .n = b.size(1),
                   .k = a.size(1),
                   .a = *of_a,
                   .b = *of_b,
                   .out_stride = out.stride(0),
                   .addend_stride = addend.defined() ? addend.stride(0) : out.stride(0),
                   .wide_out = out.scalar_type() == at::kFloat,
                   .add = addend.defined()};
}

bool run_candidate(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                   const at::Tensor& addend, int candidate) {
  const auto shape = shape_of(out, a, b, addend);
  return shape && gemm_kernels.run(*shape,
                                   {.a = a.const_data_ptr(),
                                    .b = b.const_data_ptr(),
                                    .addend = addend.defined() ? addend.const_data_ptr() : nullptr,
                                    .out = out.mutable_data_ptr()},
                                   candidate);
}

}  // namespace

void gemm_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
               const at::Tensor& addend, Recurs recurs) {
  TORCH_INTERNAL_ASSERT(a.size(1) == b.size(0) && out.size(0) == a.size(0) &&
                        out.size(1) == b.size(1));
  if (run_candidate(out, a, b, addend, recurs == Recurs::kYes ? kMeasuredGemm : kFastestKnownGemm))
    return;
  at::Tensor target = out;
  const bool same_type = out.scalar_type() == a.scalar_type();
  if (!addend.defined()) {
    if (same_type)
      at::mm_out(target, a, b);
    else if (a.is_cuda())
      at::mm_out(target, a, b, out.scalar_type());
    else
      target.copy_(at::mm(a, b));
  } else if (same_type) {
    at::addmm_out(target, addend, a, b);
  } else if (a.is_cuda()) {
    at::addmm_out(target, addend, a, b, out.scalar_type());
  } else {
    at::add_out(target, addend, at::mm(a, b));
  }
}

at::Tensor gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& addend, Recurs recurs) {
  const at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  gemm_into(out, a, b, addend, recurs);
  return out;
}

int n_gemm_candidates(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                      const at::Tensor& addend) {
  const auto shape = shape_of(out, a, b, addend);
  return shape ? gemm_kernels.n_candidates(*shape) : 0;
}

void gemm_by_candidate(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                       const at::Tensor& addend, int candidate) {
  TORCH_INTERNAL_ASSERT(run_candidate(out, a, b, addend, candidate));
}

}  // namespace ceiling
