#include "modules/ops/checks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

namespace ceiling {
namespace {

bool aligned(const at::Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

// Numbers that say where they are, from the given element of their memory on.
at::Tensor numbers(int64_t from, at::IntArrayRef sizes, at::ScalarType type = at::kBFloat16) {
  int64_t n = 1;
  for (const int64_t size : sizes) n *= size;
  return at::arange(from + n).remainder(251).to(type).narrow(0, from, n).view(sizes);
}

TEST(RowsOfPieces, LeavesWhatKernelsCanRead) {
  const at::Tensor plain = numbers(0, {2, 3, 16}), columns = plain.narrow(2, 8, 8),
                   wide = numbers(4, {3, 4}, at::kFloat);
  for (const at::Tensor& x : {plain, columns, wide})
    EXPECT_EQ(rows_of_pieces(x).const_data_ptr(), x.const_data_ptr()) << x.sizes();
}

TEST(RowsOfPieces, CopiesTheRest) {
  const at::Tensor begins_between = numbers(1, {2, 16}),
                   odd_rows = numbers(0, {4, 9}).narrow(1, 0, 8),
                   transposed = numbers(0, {16, 8}).t(),
                   odd_floats = numbers(2, {4, 4}, at::kFloat),
                   one_row = numbers(8, {1, 8}).as_strided({1, 8}, {3, 1});
  ASSERT_TRUE(begins_between.is_contiguous());
  for (const at::Tensor& x : {begins_between, odd_rows, transposed, odd_floats, one_row}) {
    const at::Tensor rows = rows_of_pieces(x);
    EXPECT_TRUE(rows.is_contiguous() && aligned(rows)) << x.sizes();
    EXPECT_EQ(rows.stride(0), rows.size(1)) << x.sizes();
    EXPECT_TRUE(at::equal(rows, x)) << x.sizes();
  }
}

}  // namespace
}  // namespace ceiling
