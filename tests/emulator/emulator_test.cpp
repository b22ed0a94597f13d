// Every kernel of modules/ops that is ours, as CUDA code on the emulator, against its reference:
// the self-tests.
#include <gtest/gtest.h>

#include <string>

#include "modules/ops/device.h"
#include "modules/ops/selftest.h"

namespace ceiling {
namespace {

class EmulatorTest : public ::testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() {
    cuda_runtime.current_stream = [](int) -> void* { return nullptr; };
  }
};

TEST_P(EmulatorTest, KernelAgreesWithItsReference) {
  SelftestReport report(at::kCPU);
  run_selftests(GetParam(), report);
  ASSERT_FALSE(report.rows().empty());
  for (const SelftestRow& row : report.rows())
    EXPECT_TRUE(row.passed()) << row.op << " " << row.shape << ": " << row.error << " of "
                              << row.bound;
}

INSTANTIATE_TEST_SUITE_P(Ops, EmulatorTest,
                         ::testing::Values("adamw", "causal_conv1d", "embedding", "gated",
                                           "gated_rms_norm", "head_norm_gate",
                                           "linear_cross_entropy", "linear_scan", "retention",
                                           "rms_norm", "rotary", "ssd"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace ceiling
