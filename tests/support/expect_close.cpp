#include "tests/support/expect_close.h"

#include <gtest/gtest.h>
#include <spdlog/fmt/fmt.h>

#include <cmath>
#include <string>

namespace ceiling {

namespace {

std::string index_text(int64_t flat, at::IntArrayRef sizes) {
  std::string text;
  for (int64_t d = static_cast<int64_t>(sizes.size()) - 1; d >= 0; --d) {
    const int64_t size = sizes[static_cast<size_t>(d)];
    text = std::to_string(flat % size) + (text.empty() ? "" : ", ") + text;
    flat /= size;
  }
  return "[" + text + "]";
}

}  // namespace

void expect_close(const at::Tensor& actual, const at::Tensor& expected, Bound bound,
                  std::source_location where) {
  const auto fail = [&](const std::string& message) {
    ADD_FAILURE_AT(where.file_name(), static_cast<int>(where.line())) << message;
  };
  if (!actual.defined() || !expected.defined())
    return fail("a tensor is undefined, the other may not be");
  if (actual.sizes() != expected.sizes())
    return fail(fmt::format("shapes differ: {} elements in {} dimensions, expected {} in {}",
                            actual.numel(), actual.dim(), expected.numel(), expected.dim()));
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor e = expected.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* got = a.const_data_ptr<double>();
  const double* want = e.const_data_ptr<double>();
  int64_t worst = -1, n_bad = 0;
  double worst_excess = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    if (got[i] == want[i]) continue;
    const double error = std::abs(got[i] - want[i]);
    const double allowed = bound.absolute + bound.relative * std::abs(want[i]);
    if (error <= allowed) continue;  // false for not-a-number
    ++n_bad;
    const double excess = std::isfinite(error) ? error - allowed : HUGE_VAL;
    if (worst < 0 || excess > worst_excess) worst = i, worst_excess = excess;
  }
  if (worst < 0) return;
  fail(fmt::format(
      "{} of {} elements differ; the worst at {}: {:.17g}, expected {:.17g}, differs by {:.3g}, "
      "allowed are {:.3g} + {:.3g} * |expected|",
      n_bad, a.numel(), index_text(worst, e.sizes()), got[worst], want[worst],
      std::abs(got[worst] - want[worst]), bound.absolute, bound.relative));
}

}  // namespace ceiling
