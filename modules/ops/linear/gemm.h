// Matrix products of training and decoding, on a GPU by the fastest of the library's kernels.
#pragma once
#include <ATen/core/Tensor.h>

namespace ceiling {

// Whether products of these sizes and strides will be made again and again, as in training: then
// it pays to measure, once in a process and for about 10 ms, which kernel is fastest.
enum class Recurs { kNo, kYes };

// a b (+ addend): a [m, k], b [k, n], of one dtype; either may be a transposed view. addend
// [m, n] or undefined, added before the sum is rounded. Not differentiable.
// bfloat16 on a GPU: cuBLASLt, float32 sums. Its kernels are many, and its guess at the fastest is
// up to a third off. Those that cut k into as many parts give the same bits (self-test
// `linear`), so only kernels that cut it as the guess does are candidates: what is measured changes
// the speed, never a number.
at::Tensor gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& addend = {},
                Recurs recurs = Recurs::kNo);

// The same into out [m, n], which may be addend. Of bfloat16 factors out and addend may be float32:
// on a GPU one product without a temporary, on a CPU a bfloat16 product that is then added.
void gemm_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
               const at::Tensor& addend = {}, Recurs recurs = Recurs::kNo);

// How many kernels gemm_into would choose from for these arguments, 0 where it does not choose; and
// the product by one of them. For tests.
int n_gemm_candidates(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                      const at::Tensor& addend);
void gemm_by_candidate(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                       const at::Tensor& addend, int candidate);

}  // namespace ceiling
