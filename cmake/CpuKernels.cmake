# CPU kernels: every modules/ops/*/kernel_cpu*.cpp is compiled once per instruction set, each time into a namespace of
# that name (CEILING_ISA); modules/ops/cpu_isa.h picks one at run time. These files hold plain loops only: an inline
# function of a library compiled here could be the copy the linker keeps, and crash an older processor.
file(GLOB_RECURSE cpu_kernel_sources CONFIGURE_DEPENDS modules/ops/*/kernel_cpu*.cpp)
set(cpu_isa_flags_generic "")
set(cpu_isa_flags_avx2 -mavx2 -mfma -mf16c)
set(cpu_isa_flags_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512)
set(cpu_kernel_objects "")
foreach(isa generic avx2 avx512)
  if(cpu_kernel_sources)
    add_library(cpu_kernels_${isa} OBJECT ${cpu_kernel_sources})
    target_compile_definitions(cpu_kernels_${isa} PRIVATE CEILING_ISA=${isa})
    # Errno and trapping block vectorising of libm calls; NaN and infinity keep their meaning (no -ffast-math).
    target_compile_options(cpu_kernels_${isa} PRIVATE -O3 ${cpu_isa_flags_${isa}} -fno-math-errno -fno-trapping-math
      -Wno-psabi)
    list(APPEND cpu_kernel_objects $<TARGET_OBJECTS:cpu_kernels_${isa}>)
  endif()
endforeach()
add_library(cpu_kernels INTERFACE)
target_sources(cpu_kernels INTERFACE ${cpu_kernel_objects})
