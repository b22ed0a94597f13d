// Kernels are checked on a device before anything is trained there.
#pragma once
#include <ATen/core/Tensor.h>

namespace ceiling {

// On a GPU: runs all self-tests once per device, driver and program, a few seconds, and remembers
// in the user's cache folder that they passed. Error naming what failed. Nothing on a CPU, where
// the tests of the build have run.
void require_selftest(at::Device device);

}  // namespace ceiling
