# Imported targets for the LibTorch inside the PyPI wheel.
#
# The wheel's own TorchConfig.cmake needs a CUDA toolkit even for a CPU program, so the targets are declared here:
#   ceiling::torch       libtorch_cpu + libc10: everything but the CUDA library links only this
#   ceiling::torch_cuda  libtorch_cuda + libc10_cuda: the CUDA library alone (see modules/ops/device/README.md)
set(CEILING_TORCH "" CACHE PATH "Folder that contains the torch package (the wheel's site-packages)")
if(NOT CEILING_TORCH)
  message(FATAL_ERROR "CEILING_TORCH is not set. Build with ./ceiling, or pass -DCEILING_TORCH=<folder with torch/>.")
endif()
set(CEILING_TORCH_VERSION_WANTED 2.11.0)
file(STRINGS ${CEILING_TORCH}/torch/version.py torch_version_line REGEX "^__version__")
if(NOT torch_version_line MATCHES "${CEILING_TORCH_VERSION_WANTED}")
  message(FATAL_ERROR "${CEILING_TORCH} holds torch ${torch_version_line}; this tree is built for ${CEILING_TORCH_VERSION_WANTED}")
endif()

set(torch_lib ${CEILING_TORCH}/torch/lib)
set(torch_include ${CEILING_TORCH}/torch/include ${CEILING_TORCH}/torch/include/torch/csrc/api/include)

# The wheel ships fmt 12 headers, which would shadow the system's fmt that spdlog is built with.
set(fmt_first ${CMAKE_BINARY_DIR}/fmt-first)
file(MAKE_DIRECTORY ${fmt_first})
file(CREATE_LINK /usr/include/fmt ${fmt_first}/fmt SYMBOLIC)
include_directories(BEFORE SYSTEM ${fmt_first})

add_library(ceiling::torch INTERFACE IMPORTED)
target_include_directories(ceiling::torch SYSTEM INTERFACE ${torch_include})
target_compile_definitions(ceiling::torch INTERFACE AT_PER_OPERATOR_HEADERS)
target_link_directories(ceiling::torch INTERFACE ${torch_lib})
# libtorch_cpu needs cudart and cupti at run time, which its own RPATH finds; the linker need not.
target_link_options(ceiling::torch INTERFACE -Wl,--allow-shlib-undefined)
target_link_libraries(ceiling::torch INTERFACE torch_cpu c10)
# at::parallel_for is a template: without OpenMP in OUR files it runs its body on one thread, and says nothing. Linked with
# -fopenmp the program uses the libgomp that lies beside libtorch, so there is one thread pool.
target_compile_options(ceiling::torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
target_link_options(ceiling::torch INTERFACE -fopenmp)

add_library(ceiling::torch_cuda INTERFACE IMPORTED)
target_link_libraries(ceiling::torch_cuda INTERFACE
  ceiling::torch -Wl,--no-as-needed torch_cuda c10_cuda -Wl,--as-needed)
