// Every kernel of modules/ops that is ours, as CUDA code on the emulator, against its reference:
// the self-tests.
#include <ATen/Parallel.h>
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
    at::set_num_threads(1);  // the references are many small steps
  }
};

void expect_agreement(const std::string& op, bool shifted) {
  SelftestReport report(at::kCPU, shifted);
  run_selftests(op, report);
  ASSERT_FALSE(report.rows().empty());
  for (const SelftestRow& row : report.rows())
    EXPECT_TRUE(row.passed()) << row.op << " " << row.shape << ": " << row.error << " of "
                              << row.bound;
}

TEST_P(EmulatorTest, KernelAgreesWithItsReference) { expect_agreement(GetParam(), false); }

// Tensors that begin between whole pieces of 16 bytes, as views into others may.
TEST_P(EmulatorTest, AlsoWhereTensorsBeginAnywhere) { expect_agreement(GetParam(), true); }

INSTANTIATE_TEST_SUITE_P(Ops, EmulatorTest,
                         ::testing::Values("adamw", "causal_conv1d", "embedding", "gated",
                                           "gated_rms_norm", "head_norm_gate", "layer_norm",
                                           "linear_cross_entropy", "linear_scan", "retention",
                                           "rms_norm", "rotary", "ssd"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace ceiling
