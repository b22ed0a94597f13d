#pragma once
#include <ATen/Context.h>

namespace ceiling {

// While it lives neither torch nor packed_attention calls cuDNN's attention. For the whole program:
// at::globalContext().setSDPUseCuDNN(false), as train.deterministic does.
class WithoutCudnn {
 public:
  explicit WithoutCudnn(bool active)
      : restore_(active && at::globalContext().userEnabledCuDNNSDP()) {
    if (restore_) at::globalContext().setSDPUseCuDNN(false);
  }
  ~WithoutCudnn() {
    if (restore_) at::globalContext().setSDPUseCuDNN(true);
  }
  WithoutCudnn(const WithoutCudnn&) = delete;
  WithoutCudnn& operator=(const WithoutCudnn&) = delete;

 private:
  bool restore_;
};

}  // namespace ceiling
