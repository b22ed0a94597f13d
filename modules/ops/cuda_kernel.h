// A kernel launcher that libceiling_cuda.so provides; no torch here, .cu files include it.
//   cuda.h          inline CudaKernel<AdamwParams> adamw_cuda;
//   kernel_cuda.cu  sets adamw_cuda.launch when the library is opened
//   adamw.cpp       launch(adamw_cuda, params, tensor);
#pragma once

namespace ceiling {

template <class Params>
struct CudaKernel {
  void (*launch)(const Params& params, void* stream) = nullptr;  // stream: cudaStream_t
};

}  // namespace ceiling
