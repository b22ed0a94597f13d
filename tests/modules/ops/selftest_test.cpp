#include "modules/ops/selftest.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <limits>

namespace ceiling {
namespace {

TEST(SelftestTest, EveryKernelPassesOnThisProcessor) {
  SelftestReport report(at::kCPU);
  run_selftests("", report);
  EXPECT_GT(report.rows().size(), 50u);
  for (const SelftestRow& row : report.rows())
    EXPECT_TRUE(row.passed()) << row.op << " " << row.shape << ": " << row.error;
}

TEST(SelftestTest, TakesWhatItsFilterNames) {
  SelftestReport report(at::kCPU);
  run_selftests("head_norm", report);
  EXPECT_FALSE(report.rows().empty());
  for (const SelftestRow& row : report.rows()) EXPECT_EQ(row.op, "head_norm_gate");
}

TEST(SelftestTest, WrongResultsFail) {
  SelftestReport report(at::kCPU);
  const at::Tensor right = report.random({4, 5});
  at::Tensor one_off = right.clone(), not_a_number = right.clone();
  one_off[2][3] += 0.1;
  not_a_number[0][0] = std::numeric_limits<double>::quiet_NaN();
  report.compare("op", "right", {right, right}, {right, right}, 1e-5);
  report.compare("op", "one off", {right, one_off}, {right, right}, 1e-5);
  report.compare("op", "not a number", {not_a_number, right}, {right, right}, 1e-5);
  report.compare("op", "a result too few", {right}, {right, right}, 1e-5);
  report.compare("op", "not zero", {right}, {at::zeros_like(right)}, 1e-5);
  const auto& rows = report.rows();
  EXPECT_TRUE(rows[0].passed());
  for (size_t i = 1; i < rows.size(); ++i) EXPECT_FALSE(rows[i].passed()) << rows[i].shape;
}

// A gradient that is wrong while the outputs are right is found, too.
TEST(SelftestTest, WrongGradientsFail) {
  SelftestReport report(at::kCPU);
  const auto doubled = [](const auto& in, const auto&) -> std::vector<at::Tensor> {
    return {2 * in[0]};
  };
  const auto cut = [](const auto& in, const auto&) -> std::vector<at::Tensor> {
    return {in[0] + in[0].detach()};
  };
  report.differentiable("op", "same", doubled, doubled, {report.random({7})}, {}, at::kFloat, 1e-5);
  report.differentiable("op", "cut", cut, doubled, {report.random({7})}, {}, at::kFloat, 1e-5);
  EXPECT_TRUE(report.rows()[0].passed());
  EXPECT_FALSE(report.rows()[1].passed());
}

}  // namespace
}  // namespace ceiling
